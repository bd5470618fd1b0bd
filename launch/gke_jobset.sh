#!/usr/bin/env bash
# GKE by a plain JobSet, on a cluster that has TPU node pools and JobSet.
#
#   launch/gke_jobset.sh run --name=wmt --image=gcr.io/my-project/taskmoe \
#     --accelerator=tpu-v5p-slice --topology=4x4x4 --slices=2 \
#     -- train --gin_file=recipes/wmt_task_moe_32e.gin --gin.RUN_DIR=gs://...
#
# First the verb:
#   manifest  print what `run` would apply
#   run       the command
#   logs      of the first host of the first slice, as they come
#   stop      the JobSet; the trainer gets SIGTERM, and saves
#
# --name         of the JobSet
# --image        that launch/Dockerfile makes
# --accelerator  of the node pool, such as tpu-v5-lite-podslice, tpu-v5p-slice
# --topology     of the node pool, such as 4x8 or 4x4x4
# --chips        of one host (4)
# --slices       so many slices, joined by the data-centre network (1)
# --restarts     after failures, at most; preemption does not count (50)
# --account      Kubernetes service account that may use the bucket (default)
# --dry-run      print what would be run, and the manifest

set -euo pipefail
# shellcheck source=launch/shell.sh
. "$(dirname "$0")/shell.sh"

# Read by their names, where the manifest is filled in.
# shellcheck disable=SC2034
NAME='' IMAGE='' ACCELERATOR='' TOPOLOGY='' CHIPS=4 SLICES=1 RESTARTS=50
# shellcheck disable=SC2034
ACCOUNT=default
VERB=${1:-}
case $VERB in
  -h | --help) usage && exit 0 ;;
  manifest | run | logs | stop) shift ;;
  *) fail "the first argument is a verb: manifest, run, logs or stop." \
    "See ${0##*/} --help." ;;
esac
parse_flags "name image accelerator topology chips slices restarts account" "$@"
need NAME

# Words as a list of JSON strings, which YAML takes too.
json_list() {
  local word list=''
  for word in "$@"; do
    word=${word//\\/\\\\}
    list+="\"${word//\"/\\\"}\", "
  done
  echo "[${list%, }]"
}

manifest() {
  need IMAGE ACCELERATOR TOPOLOGY
  need_command
  local all=$((${TOPOLOGY//x/*})) text name
  [ $((all % CHIPS)) -eq 0 ] ||
    fail "the $all chips of --topology=$TOPOLOGY do not divide into hosts of" \
      "$CHIPS. Set --chips."
  # shellcheck disable=SC2034
  HOSTS=$((all / CHIPS))
  # shellcheck disable=SC2034
  ARGS=$(json_list "${COMMAND[@]}")
  text=$(<"$(dirname "$0")/jobset.yaml")
  for name in NAME IMAGE ACCELERATOR TOPOLOGY CHIPS SLICES RESTARTS ACCOUNT \
    HOSTS ARGS; do
    text=${text//"\${$name}"/"${!name}"}
  done
  echo "$text"
}

case $VERB in
  manifest) manifest ;;
  run)
    text=$(manifest)
    echo "+ launch/gke_jobset.sh manifest ... | kubectl apply --filename=-"
    if [ "$DRY_RUN" = yes ]; then
      echo "$text"
    else
      kubectl apply --filename=- <<<"$text"
    fi
    ;;
  logs) run kubectl logs --follow "job/$NAME-slice-0" ;;
  stop) run kubectl delete jobset "$NAME" ;;
esac
