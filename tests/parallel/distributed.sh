#!/usr/bin/env bash
# One run in two processes of this machine, against the same run in one: bash tests/parallel/distributed.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/python -m pytest -n 0 -m '' tests/parallel/test_processes.py -k 'two_processes or process_that' "$@"
