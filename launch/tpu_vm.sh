#!/usr/bin/env bash
# A Cloud TPU slice with gcloud alone; every command runs on all of its hosts:
#   TPU=name ZONE=us-west4-a launch/tpu_vm.sh create       # waits in the queue; skip it for a slice you have
#   TPU=name ZONE=us-west4-a launch/tpu_vm.sh setup        # copies this checkout, installs it; again after changes
#   TPU=name ZONE=us-west4-a launch/tpu_vm.sh run --config=configs/samsum.py --workdir=DIR [--config.a.b=value]
#   TPU=name ZONE=us-west4-a launch/tpu_vm.sh stop|delete
# Also read: ACCELERATOR (v5litepod-16), RUNTIME (v2-alpha-tpuv5-lite), SPOT=1,
# MOUNT (run on every host by setup; it must mount the file system of --workdir).
set -euo pipefail

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

create() {
  local state=""
  gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${SPOT:+--spot}
  until [ "$state" = ACTIVE ]; do
    state=$(gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)')
    echo "$TPU: $state" >&2
    case "$state" in
      ACTIVE) ;;
      FAILED | SUSPENDING | SUSPENDED) exit 1 ;;
      *) sleep "${POLL_SECONDS:-30}" ;;
    esac
  done
}

setup() {
  local archive
  archive=$(mktemp -d)/nash_jax.tar.gz
  tar -C "$(dirname "$0")/.." --exclude=__pycache__ -czf "$archive" pyproject.toml setup.py README.md nash_jax configs
  gcloud compute tpus tpu-vm scp "$archive" "$TPU":nash_jax.tar.gz --zone="$ZONE" --worker=all
  rm -r "$(dirname "$archive")"
  # the hosts' own Python may be too old; uv brings one
  on_all_hosts "set -e; mkdir -p nash_jax; tar -xzf nash_jax.tar.gz -C nash_jax; cd nash_jax
    python3 -m pip install --quiet --user uv
    [ -d .venv ] || ~/.local/bin/uv venv --python 3.11 .venv
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e '.[train,tpu]'
    ${MOUNT:-}"
}

run() {
  case " $* " in
    *" --workdir"*) ;;
    *) echo "run needs --workdir=DIR, on a file system that all hosts share" >&2 && exit 2 ;;
  esac
  on_all_hosts "cd nash_jax && NASH_JAX_DISTRIBUTED=1 exec .venv/bin/python -m nash_jax.main $(printf '%q ' "$@")"
}

stop() {
  on_all_hosts "pkill -f '[n]ash_jax.main' || true"
}

delete() {
  gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force
}

case "${1:-}" in
  create | setup | run | stop | delete) "$@" ;;
  *) sed -n '2,8p' "$0" >&2 && exit 2 ;;
esac
