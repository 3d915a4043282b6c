#!/usr/bin/env bash
# The cells of a grid with GNU parallel, JOBS at a time on a machine (1: a cell takes all its devices):
#   launch/study_parallel.sh --config=configs/study.py --workdir=DIR [--config.a.b=value]
#   HOSTS=node1,node2 launch/study_parallel.sh …   # over ssh; checkout, environment and DIR lie alike on all of them
# Exit status: how many cells failed.
set -euo pipefail

python=${PYTHON:-python}
"$python" -m nash_jax.main "$@" --list-cells | sed "s|^python |$python |" |
  parallel --will-cite --line-buffer --tagstring '{= s/.*--cell=// =}' --jobs "${JOBS:-1}" \
    ${HOSTS:+--sshlogin "$HOSTS" --env PATH --workdir "$PWD"}
