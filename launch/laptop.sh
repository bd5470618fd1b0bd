#!/usr/bin/env bash
# Several processes of one training on this machine: to try out many hosts.
#
#   launch/laptop.sh --processes=2 -- train --gin_file=recipes/demo.gin
#
# --processes  how many (2)
# --devices    CPU devices of each (1)
# --port       where process 0 listens for the others (12355)
# --dry-run    print what would be run
#
# Output comes from all of them, each line after the number of its process.
# Ctrl-C and SIGTERM reach every process; when one fails the others are told to
# stop, and its status is ours. The same command again resumes.

set -euo pipefail
# shellcheck source=launch/shell.sh
. "$(dirname "$0")/shell.sh"

PROCESSES=2 DEVICES=1 PORT=12355
parse_flags "processes devices port" "$@"
need_command

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
echo "+ export JAX_PLATFORMS=$JAX_PLATFORMS XLA_FLAGS='$XLA_FLAGS'"

pids=()
stop_all() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop_all TERM INT

for ((process = 0; process < PROCESSES; process++)); do
  full=("$TASKMOE" "${COMMAND[@]}" "--coordinator=localhost:$PORT"
    "--num_processes=$PROCESSES" "--process_id=$process")
  echo "+ $(quoted "${full[@]}") &"
  if [ "$DRY_RUN" = no ]; then
    # The process itself, not a pipe, is what signals go to.
    "${full[@]}" > >(sed -u "s/^/$process: /") 2>&1 &
    pids+=($!)
  fi
done

status=0
for _ in "${pids[@]}"; do
  code=0
  wait -n "${pids[@]}" || code=$?
  # A signal interrupts `wait`; the processes are then on their way out.
  while [ "$code" -gt 128 ] && [ -n "$(jobs -pr)" ]; do
    code=0
    wait -n "${pids[@]}" || code=$?
  done
  if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$code
    stop_all
  fi
done
exit "$status"
