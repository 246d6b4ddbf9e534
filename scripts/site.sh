#!/usr/bin/env bash
# Builds the documentation into site/ and checks every link: `bash scripts/site.sh [serve]`. With `serve`, it shows the site on
# this machine instead, and again after each change of a page.
# It needs no PyTorch: without .venv, or where .venv lacks the extra `docs`, it sets up .venv-site, about 200 MB.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# material's notice of another project's plans is no warning about these pages
export NO_MKDOCS_2_WARNING=1

has_docs() { "$1/bin/python" -c 'import material, mkdocs, mkdocstrings_handlers.python' 2>/dev/null; }

environment=.venv
if ! has_docs $environment; then
    environment=.venv-site
    if ! has_docs $environment; then
        printf 'acmix: setting up %s\n' $environment >&2
        "${PYTHON:-python3}" -m venv --clear $environment
        # the extra `docs` alone, in one line of pyproject.toml
        read -r -a packages <<<"$(sed -n 's/^docs = \[\(.*\)\]$/\1/p' pyproject.toml | tr -d '",')"
        PIP_DISABLE_PIP_VERSION_CHECK=1 $environment/bin/python -m pip install --quiet --no-input \
            -c constraints.txt "${packages[@]}"
    fi
fi
if [[ ${1-} == serve ]]; then
    exec $environment/bin/python -m mkdocs serve
fi
# a warning ends the build
$environment/bin/python -m mkdocs build --strict --clean
$environment/bin/python scripts/site_check.py site
printf 'site/index.html opens in a browser, also without a server\n'
