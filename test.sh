#!/usr/bin/env bash
# Sets up, then runs the tests: `bash test.sh [pytest's arguments]`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh demo,dev
started=$SECONDS
status=0
# a process a core with one thread each is quicker than one process with all cores; more than 8 only cost memory
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" .venv/bin/python -m pytest -n auto --maxprocesses 8 "$@" || status=$?
awk -v seconds=$((SECONDS - started)) 'BEGIN { printf "test.sh: %.1f minutes\n", seconds / 60 }'
exit $status
