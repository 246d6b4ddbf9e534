#!/usr/bin/env bash
# Trains: `bash run.sh N CONFIG DATA_DIR [key=value ...]`; without arguments, the demo. `bash run.sh --help` says more.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'END'
bash run.sh
    The demo: a small ACmix-Swin learns handwritten digits, on a laptop in about three minutes.

bash run.sh N CONFIG DATA_DIR [key=value ...]
    Trains in N processes, one a GPU; without GPUs, N processes on the CPU. The same command resumes.
    CONFIG    a YAML file, or the name of one under acmix/configs
    DATA_DIR  holds train/<class>/<images> and val/<class>/<images>
    key=value changes a setting: train.epochs=90 train.batch_size=64

Both set up their own Python environment, .venv, on the first call. From the environment:
    OUTPUT                              the run's folder (default: runs/<CONFIG's name>)
    NNODES NODE_RANK RDZV_ENDPOINT      several machines: how many, which one this is (from 0), HOST:PORT of machine 0
    PYTHON                              the interpreter to set up with (default: python3)
END
}

fail() {
    printf 'acmix: error: %s\n' "$*" >&2
    exit 2
}

case "${1-}" in
    -h | --help)
        usage
        exit 0
        ;;
esac
if (($# == 0)); then
    module=acmix.tools.demo
else
    (($# >= 3)) || fail "$# arguments where none or at least 3 were expected: bash run.sh N CONFIG DATA_DIR [key=value ...]"
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail "N, the number of processes, is '$1'; expected a whole number from 1 up"
    module=acmix.train.launch
fi
bash "$root/scripts/setup.sh" demo
# CPU threads that spin while they wait make a step ten times slower when anything else runs on the machine
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
exec "$root/.venv/bin/python" -m "$module" "$@"
