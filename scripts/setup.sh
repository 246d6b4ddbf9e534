#!/usr/bin/env bash
# Makes .venv beside this repository hold the package and the named extras: `bash scripts/setup.sh demo,dev`.
# Costs minutes once and a fraction of a second afterwards. PYTHON chooses the interpreter that .venv is made from.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:?the extras to install, e.g. demo,dev}"
stamps=.venv/.acmix
unfinished=$stamps/unfinished

say() { printf 'acmix: %s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# what an installation depends on; the folder is part of it, for a virtual environment does not survive a move
fingerprint() {
    pwd -P
    cksum pyproject.toml constraints.txt
}

ready() {
    [[ -x .venv/bin/python && ! -e $unfinished ]] || return 1
    local extra current
    current="$(fingerprint)"
    for extra in ${extras//,/ }; do
        [[ -f $stamps/$extra && "$(<"$stamps/$extra")" == "$current" ]] || return 1
    done
}

wait_for_other_setups() {
    command -v flock >/dev/null || return 0
    # any file of ours will do; it is opened for appending, and nothing is written
    exec 9>>constraints.txt
    flock -n 9 && return 0
    say "another setup is running here; waiting for it"
    flock 9
}

make_environment() {
    local python="${PYTHON:-python3}" version
    version="$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null)" ||
        fail "cannot run $python; install Python 3.10 or newer, or set PYTHON to one"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$python is Python $version; 3.10 or newer is needed: set PYTHON to one"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks its venv module; install it (on Debian and Ubuntu: apt install python3-venv)"
    say "setting up .venv with Python $version; the first time this downloads PyTorch, which takes minutes"
    "$python" -m venv --clear .venv 9>&-
}

# pip's hundred lines, reduced to the large downloads
progress() {
    local line
    while IFS= read -r line; do
        if [[ $line =~ ^\ *(Downloading|Using\ cached)\ ([^ ]+)-[0-9][^\ ]*\ \(([0-9.]+)\ ([MG]B)\) ]]; then
            [[ ${BASH_REMATCH[4]} == MB && ${BASH_REMATCH[3]%.*} -lt 20 ]] ||
                say "  ${BASH_REMATCH[2]} ${BASH_REMATCH[3]} ${BASH_REMATCH[4]}"
        elif [[ $line == "Installing collected packages"* ]]; then
            say "  installing"
        fi
    done
}

install_package() {
    say "installing the package with: $extras"
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --no-input --progress-bar off \
        -e ".[$extras]" -c constraints.txt 9>&- | progress
}

ready && exit 0
wait_for_other_setups
ready && exit 0
started=$SECONDS
# packages that an interrupted pip left half written can be beyond pip's own repair
if [[ -e $unfinished ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    make_environment
fi
had_finished="$(find $stamps -type f 2>/dev/null || true)"
mkdir -p $stamps
trap 'exit 130' INT
trap 'exit 143' TERM
: >$unfinished
if ! install_package; then
    # an environment that worked before is kept: most failures are a missing network
    [[ -z $had_finished ]] || rm -f $unfinished
    fail "the installation failed, see above; run the same command again once the cause is gone"
fi
for extra in ${extras//,/ }; do
    fingerprint >"$stamps/$extra"
done
rm -f $unfinished
say "ready after $((SECONDS - started)) s"
