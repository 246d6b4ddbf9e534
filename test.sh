#!/usr/bin/env bash
# Sets up, then runs the tests: `bash test.sh [-m fast] [pytest's arguments]`; -m fast is for before each commit.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh demo,dev
started=$SECONDS
status=0
# Processes with one thread each are quicker than one process with all cores; one more than there are cores, as a third
# of the time of tests that start commands is waiting; more than 8 only cost memory.
# Each takes a run of tests, which share what a file sets up, and gives of it to one that has finished
cores=$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
processes=$((cores < 8 ? cores + 1 : 8))
pytest=(.venv/bin/python -m pytest -n "$processes" --dist worksteal --durations 8 --durations-min 5)
# compiled files are kept, whatever the environment says: compiling every test anew takes each process ten seconds
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONDONTWRITEBYTECODE='' "${pytest[@]}" "$@" || status=$?
awk -v seconds=$((SECONDS - started)) 'BEGIN { printf "test.sh: %.1f minutes\n", seconds / 60 }'
exit $status
