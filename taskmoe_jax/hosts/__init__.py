"""The machines that a job runs on: processes, liveness, memory."""
