#!/usr/bin/env bash
# GKE by XPK, Google's command line for clusters of TPUs (pip install xpk).
#
#   launch/gke_xpk.sh create --cluster=mt --zone=us-east5-a --project=my-project \
#     --type=v5p-128 --slices=2
#   launch/gke_xpk.sh run --cluster=mt --zone=us-east5-a --project=my-project \
#     --type=v5p-128 --slices=2 --image=gcr.io/my-project/taskmoe --name=wmt \
#     -- train --gin_file=recipes/wmt_task_moe_32e.gin --gin.RUN_DIR=gs://...
#
# First the verb:
#   create   the cluster
#   run      the command, as a workload
#   list     workloads and their states
#   stop     the workload
#   delete   the cluster
#
# --cluster    its name
# --zone, --project
# --type       accelerator type, such as v5litepod-16 or v5p-128
# --slices     so many slices, joined by the data-centre network (1)
# --capacity   on-demand, spot, flex, or reservation=NAME (on-demand)
# --image      that launch/Dockerfile makes
# --name       of the workload (taskmoe)
# --restarts   after failures or preemption, at most (50)
# --dry-run    print what would be run

set -euo pipefail
# shellcheck source=launch/shell.sh
. "$(dirname "$0")/shell.sh"

CLUSTER='' ZONE='' PROJECT='' TYPE='' SLICES=1 CAPACITY=on-demand IMAGE=''
NAME=taskmoe RESTARTS=50
VERB=${1:-}
case $VERB in
  -h | --help) usage && exit 0 ;;
  create | run | list | stop | delete) shift ;;
  *) fail "the first argument is a verb: create, run, list, stop or delete." \
    "See ${0##*/} --help." ;;
esac
parse_flags "cluster zone project type slices capacity image name restarts" "$@"
need CLUSTER ZONE PROJECT
WHERE=("--cluster=$CLUSTER" "--zone=$ZONE" "--project=$PROJECT")

case $VERB in
  create)
    need TYPE
    run xpk cluster create "${WHERE[@]}" "--tpu-type=$TYPE" \
      "--num-slices=$SLICES" "--$CAPACITY"
    ;;
  run)
    need TYPE IMAGE
    need_command
    # exec: the trainer itself gets SIGTERM, not a shell around it.
    run xpk workload create "${WHERE[@]}" "--workload=$NAME" \
      "--tpu-type=$TYPE" "--num-slices=$SLICES" "--docker-image=$IMAGE" \
      "--max-restarts=$RESTARTS" \
      "--command=exec taskmoe $(quoted "${COMMAND[@]}")"
    ;;
  list) run xpk workload list "${WHERE[@]}" ;;
  stop) run xpk workload delete "${WHERE[@]}" "--workload=$NAME" ;;
  delete) run xpk cluster delete "${WHERE[@]}" ;;
esac
