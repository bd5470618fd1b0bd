#!/usr/bin/env bash
# TPU VMs and pod slices by queued resources, from creation to deletion.
#
#   launch/tpu_vm.sh up --name=mt --zone=us-east5-a --type=v5p-128 \
#     -- train --gin_file=recipes/wmt_task_moe_32e.gin --gin.RUN_DIR=gs://...
#
# First the verb:
#   create    ask for the machines
#   wait      until they are there
#   install   the package, on all hosts
#   run       the command, on all hosts, as a service that outlives this shell
#   logs      of host 0 (or --worker=N), as they come
#   stop      SIGTERM to the trainer, which saves and ends
#   delete    the machines
#   up        create, wait, install, run; then watch, and do it all again when
#             the machines have been preempted, until the training has ended
#
# --name       of the queued resource and its machines
# --zone       such as us-east5-a
# --type       accelerator type, such as v5litepod-16 or v5p-128
# --project    of Google Cloud; gcloud's own unless given
# --version    of the TPU software; that of the type unless given
# --slices     so many slices, joined by the data-centre network (1)
# --spot       yes for machines that may be taken back (no)
# --account    service account that reads and writes the bucket
# --source     what to install: a wheel, a folder or a URL for pip (.)
# --worker     host whose logs to show (0)
# --poll       seconds between two looks at the state (60)
# --dry-run    print what would be run

set -euo pipefail
# shellcheck source=launch/shell.sh
. "$(dirname "$0")/shell.sh"

NAME='' ZONE='' TYPE='' PROJECT='' VERSION='' SLICES=1 SPOT=no ACCOUNT=''
SOURCE=. WORKER=0 POLL=60
# Seconds that a trainer has to save after SIGTERM.
GRACE=300
VENV=taskmoe-env

usage_and_fail() {
  fail "the first argument is a verb: create, wait, install, run, logs, stop," \
    "delete or up. See ${0##*/} --help."
}

place() {
  echo "--zone=$ZONE"
  if [ -n "$PROJECT" ]; then echo "--project=$PROJECT"; fi
}

# The TPU software of a type (cloud.google.com/tpu/docs/runtimes).
version_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) fail "no TPU software is known for --type=$1: accepted are v2-*, v3-*," \
      "v4-*, v5litepod-*, v5p-*, v6e-*. Set --version." ;;
  esac
}

create() {
  need TYPE
  local flags=("--accelerator-type=$TYPE")
  flags+=("--runtime-version=${VERSION:-$(version_of "$TYPE")}")
  if [ "$SLICES" -gt 1 ]; then
    flags+=("--node-count=$SLICES" "--node-prefix=$NAME")
  else
    flags+=("--node-id=$NAME")
  fi
  if [ "$SPOT" = yes ]; then flags+=(--spot); fi
  if [ -n "$ACCOUNT" ]; then flags+=("--service-account=$ACCOUNT"); fi
  run gcloud compute tpus queued-resources create "$NAME" "${PLACE[@]}" \
    "${flags[@]}"
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${PLACE[@]}" \
    --format='value(state.state)'
}

wait_until_active() {
  if [ "$DRY_RUN" = yes ]; then
    echo "+ gcloud compute tpus queued-resources describe $NAME" \
      "$(quoted "${PLACE[@]}") --format='value(state.state)'" \
      "# every $POLL s, until ACTIVE"
    return
  fi
  local now before=''
  while :; do
    now=$(state)
    [ "$now" = "$before" ] || echo "$(date +%T) $NAME: $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) return 1 ;;
    esac
    sleep "$POLL"
  done
}

# Runs a shell command on all hosts of all slices.
on_hosts() {
  if [ "$SLICES" -gt 1 ]; then
    run gcloud alpha compute tpus queued-resources ssh "$NAME" "${PLACE[@]}" \
      --node=all --worker=all --command="$1"
  else
    run gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker=all \
      --command="$1"
  fi
}

to_hosts() {
  if [ "$SLICES" -gt 1 ]; then
    run gcloud alpha compute tpus queued-resources scp "$1" "$NAME:" \
      "${PLACE[@]}" --node=all --worker=all
  else
    run gcloud compute tpus tpu-vm scp "$1" "$NAME:" "${PLACE[@]}" --worker=all
  fi
}

install() {
  local what=$SOURCE
  if [ -d "$what" ]; then
    run python3 -m pip wheel --quiet --no-deps --wheel-dir=dist "$what"
    what=$(find dist -name 'taskmoe_jax-*.whl' 2>/dev/null | sort | tail -1)
    what=${what:-dist/taskmoe_jax-0.1.0-py3-none-any.whl}
  fi
  case $what in
    *.whl)
      to_hosts "$what"
      what="./${what##*/}"
      ;;
  esac
  # The machines' own Python is older than we need; uv brings one.
  on_hosts "python3 -m pip install --quiet --user uv &&
    ~/.local/bin/uv venv --quiet --clear --python 3.12 ~/$VENV &&
    ~/.local/bin/uv pip install --quiet --python ~/$VENV/bin/python '$what' &&
    ~/.local/bin/uv pip install --quiet --python ~/$VENV/bin/python \
      \"jax[tpu]==\$(~/$VENV/bin/python -c 'import jax; print(jax.__version__)')\""
}

run_command() {
  need_command
  # A service: it outlives the connection, gets SIGTERM when the machine is shut
  # down, with time to save, and starts again after a failure (75: it was told
  # to stop), but not after a mistake of ours (2).
  on_hosts "sudo systemctl reset-failed taskmoe 2>/dev/null;
    sudo systemd-run --unit=taskmoe --uid=\$(id -u) --remain-after-exit \
      --property=TimeoutStopSec=$GRACE --property=Restart=on-failure \
      --property=RestartSec=30 --property=RestartPreventExitStatus=2 \
      --property=RestartForceExitStatus=75 --setenv=HOME=\$HOME \
      \$HOME/$VENV/bin/taskmoe $(quoted "${COMMAND[@]}")"
}

logs() {
  if [ "$SLICES" -gt 1 ]; then
    run gcloud alpha compute tpus queued-resources ssh "$NAME" "${PLACE[@]}" \
      --node=0 --worker="$WORKER" --command='journalctl --unit=taskmoe --follow'
  else
    run gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" \
      --worker="$WORKER" --command='journalctl --unit=taskmoe --follow'
  fi
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" \
    --force --quiet
}

# What the trainer of host 0 is doing: active, exited (status 0) or failed.
service() {
  gcloud compute tpus tpu-vm ssh "${NAME}$([ "$SLICES" -gt 1 ] && echo -0)" \
    "${PLACE[@]}" --worker=0 --quiet \
    --command='systemctl show taskmoe --property=SubState --value' 2>/dev/null
}

up() {
  need TYPE
  need_command
  while :; do
    create
    if wait_until_active && install && run_command; then
      [ "$DRY_RUN" = no ] || return 0
      while [ "$(state)" = ACTIVE ]; do
        case $(service || true) in
          exited) echo "$NAME: the training has ended" && return 0 ;;
          failed) fail "the trainer failed: ${0##*/} logs --name=$NAME ..." ;;
        esac
        sleep "$POLL"
      done
    fi
    echo "$(date +%T) $NAME: the machines are gone ($(state)); once more"
    delete
  done
}

VERB=${1:-}
case $VERB in
  -h | --help) usage && exit 0 ;;
  create | wait | install | run | logs | stop | delete | up) shift ;;
  *) usage_and_fail ;;
esac
parse_flags "name zone type project version slices spot account source worker \
poll" "$@"
need NAME ZONE
mapfile -t PLACE < <(place)

case $VERB in
  wait) wait_until_active ;;
  run) run_command ;;
  stop) on_hosts 'sudo systemctl stop taskmoe' ;;
  *) "$VERB" ;;
esac
