#!/usr/bin/env bash
# All devices of this machine, one process:
#   launch/local.sh --config=configs/quickstart.py [--workdir=DIR] [--config.a.b=value]
set -euo pipefail
exec "${PYTHON:-python}" -m nash_jax.main "$@"
