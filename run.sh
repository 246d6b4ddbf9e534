#!/usr/bin/env bash
# Sets up, then trains: `bash run.sh N CONFIG DATA_DIR [key=value ...]`, or the demo without arguments. See --help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'END'
bash run.sh
    Runs the demo: trains a small ACmix-Swin on handwritten digits, in about three minutes on two CPU cores.

bash run.sh N CONFIG DATA_DIR [key=value ...]
    Trains in N processes, one per GPU. Without GPUs, the N processes share the CPU. The same command resumes.
    N          number of processes
    CONFIG     a YAML file, or a name under acmix/configs, such as acmix_swin_tiny_patch4_window7_224
    DATA_DIR   a folder with train/<class>/<images> and val/<class>/<images>; for coco/… one like COCO's, for ade20k/…
               one like ADE20K's
    key=value  changes a setting, such as train.epochs=90 or train.batch_size=64

The first call installs a Python environment in .venv (about 6 GB). Environment variables:
    OUTPUT         run folder (default: runs/<name of CONFIG>, or -2, -3, ... if that holds a run with other settings)
    NNODES         number of machines (default: 1); run the same command on each
    NODE_RANK      number of this machine, from 0
    RDZV_ENDPOINT  HOST:PORT of machine 0
    PYTHON         Python that creates .venv (default: python3)
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
    (($# >= 3)) || fail "got only: $*; expected no arguments, or at least 3: bash run.sh N CONFIG DATA_DIR [key=value ...]"
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail "N is '$1'; expected a number of processes, 1 or more"
    module=acmix.train.launch
fi
bash "$root/scripts/setup.sh" demo,detect
# threads that spin while they wait slow a step down up to ten times when anything else runs on the machine
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
exec "$root/.venv/bin/python" -m "$module" "$@"
