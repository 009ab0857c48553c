#!/usr/bin/env bash
# One run in two processes of this machine, against the same run in one: bash tests/running/distributed.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/python -m pytest -n 0 -m '' tests/running/test_processes.py -k 'two_processes or process_that' "$@"
