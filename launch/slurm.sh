#!/usr/bin/env bash
# Slurm, on GPUs: one process a GPU, as JAX finds out by itself.
#
#   launch/slurm.sh --nodes=2 --gpus=8 --time=24:00:00 \
#     -- train --gin_file=recipes/wmt_task_moe_32e.gin --gin.RUN_DIR=/shared/run
#
# --nodes      how many (1)
# --gpus       of each node (8)
# --cpus       of each GPU (8)
# --time       limit; before it ends the trainer is told to save (24:00:00)
# --partition  of the cluster; its default unless given
# --name       of the job (taskmoe)
# --dry-run    print the job and do not submit it
#
# The job is put back into the queue when it is preempted or its time is up, and
# resumes by itself: RUN_DIR must be a folder that every node sees.

set -euo pipefail
# shellcheck source=launch/shell.sh
. "$(dirname "$0")/shell.sh"

NODES=1 GPUS=8 CPUS=8 TIME=24:00:00 PARTITION='' NAME=taskmoe
parse_flags "nodes gpus cpus time partition name" "$@"
need_command

partition_line=''
if [ -n "$PARTITION" ]; then
  partition_line=$'\n'"#SBATCH --partition=$PARTITION"
fi
job="#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --time=$TIME
#SBATCH --output=$NAME-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Five minutes before the end, to every process of srun and to this shell.
#SBATCH --signal=B:TERM@300$partition_line

set -euo pipefail
# The trainer saves and ends on SIGTERM; then the job goes back into the queue.
trap 'told=yes; kill -TERM \"\$step\"' TERM
told=no
srun --kill-on-bad-exit=1 $(quoted "$TASKMOE" "${COMMAND[@]}") &
step=\$!
code=0
while kill -0 \"\$step\" 2>/dev/null; do
  code=0
  wait \"\$step\" || code=\$?
done
if [ \"\$told\" = yes ]; then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \"\$code\""

echo "+ sbatch <<'JOB'"
echo "$job"
echo JOB
[ "$DRY_RUN" = yes ] || sbatch <<<"$job"
