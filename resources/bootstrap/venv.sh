#!/bin/sh
# Make or bring up to date the virtual environment .venv from uv.lock, with hashes. Safe when two start at once.
# Usage: venv.sh [uv sync options, for example --no-dev]
set -eu
cd "$(dirname "$0")/../.."
exec 9>.venv.lock
flock 9
# The groups that are there are kept: a run without --no-dev has installed more than one with it needs.
want=$(cat uv.lock pyproject.toml resources/bootstrap/uv.txt | sha256sum | cut -d' ' -f1)
groups="${*:-all}"
if [ -x .venv/bin/thems-jobs ] && grep -qxF "$want $groups" .venv/.installed 2>/dev/null; then
    exit 0
fi
if [ "$groups" = --no-dev ] && grep -qxF "$want all" .venv/.installed 2>/dev/null; then
    exit 0
fi
python=$(command -v /usr/bin/python3 || command -v python3)
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -c 'import pip' 2>/dev/null || .venv/bin/python -m ensurepip >/dev/null # one that uv made has none
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r resources/bootstrap/uv.txt
UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv sync --quiet --frozen --inexact --active "$@"
printf '%s\n' "$want $groups" > .venv/.installed
