#!/usr/bin/env bash
# Installs the package with the named extras into .venv: `bash scripts/setup.sh demo,dev`.
# The first call takes minutes, later ones a fraction of a second. PYTHON names the interpreter that creates .venv.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:?name the extras to install, for example demo,dev}"
stamps=.venv/.acmix
unfinished=$stamps/unfinished
# GB that an installation of all extras with GPU libraries takes at its height
room=10

say() { printf 'acmix: %s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# what an installation depends on; includes the folder, because a moved virtual environment breaks
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
    # any file of the repository serves as the lock; nothing is written to it
    exec 9>>constraints.txt
    flock -n 9 && return 0
    say "waiting for another setup of this folder to finish"
    flock 9
}

make_environment() {
    local python="${PYTHON:-python3}" version
    version="$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null)" ||
        fail "cannot run $python; install Python 3.10 or newer, or set PYTHON to its path"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$python is Python $version; expected 3.10 or newer: set PYTHON to its path"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module; install it (Debian and Ubuntu: apt install python3-venv)"
    local free
    # what is free stands before the share that is taken, whatever the disk is called
    free="$(df -Pk . 2>/dev/null | sed -nE 's/.* ([0-9]+) +[0-9]+% .*/\1/p' | awk '{ print int($1 * 1024 / 1e9) }')" || free=
    # one that is there already is cleared
    [[ -e .venv || -z $free ]] || ((free >= room)) ||
        say "note: $PWD has $free GB left; .venv takes up to 7 GB, and downloads up to 3 GB more for a while"
    say "creating .venv with Python $version; the first time, downloading PyTorch takes minutes"
    "$python" -m venv --clear .venv 9>&-
}

# shortens pip's output to the large downloads
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
    say "installing acmix with the extras $extras"
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --no-input --progress-bar off \
        -e ".[$extras]" -c constraints.txt 9>&- | progress
}

ready && exit 0
wait_for_other_setups
ready && exit 0
started=$SECONDS
# start anew: pip cannot always repair packages that an interrupted run left half written
if [[ -e $unfinished ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    make_environment
fi
had_finished="$(find $stamps -type f 2>/dev/null || true)"
mkdir -p $stamps
trap 'exit 130' INT
trap 'exit 143' TERM
: >$unfinished
if ! install_package; then
    # keep an environment that worked before: most failures are a missing network
    [[ -z $had_finished ]] || rm -f $unfinished
    fail "the installation failed for the reason above; remove the cause and run the same command again"
fi
for extra in ${extras//,/ }; do
    fingerprint >"$stamps/$extra"
done
rm -f $unfinished
say "ready after $((SECONDS - started)) s"
