#!/usr/bin/env bash
# Installs the extra ray and runs the tests of its engine on this machine: bash tests/sweeps/ray.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/python -c 'import ray' 2>/dev/null ||
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,ray]'
.venv/bin/python -m pytest -n 0 -m '' tests/sweeps -k ray "$@"
