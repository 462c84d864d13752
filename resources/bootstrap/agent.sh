#!/bin/sh
# Runs thems-jobs on an agent, from a virtual environment that is made from the lock file, with hashes, once per version
# and agent. Run in a checkout of thems-jobs, with THEMS_LIBRARY_VERSION saying which version of the steps started it.
# Usage: agent.sh COMMAND [OPTION...]
set -eu

say() { echo "thems-jobs agent: $*" >&2; }

if ! [ -f uv.lock ] || ! [ -f src/thems_jobs/__init__.py ]; then
    say "$PWD is no checkout of thems-jobs. A pipeline of another repository needs THEMS_REPOSITORY: see docs/jenkins.md"
    exit 2
fi
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/thems_jobs/__init__.py)
if [ "$version" != "$THEMS_LIBRARY_VERSION" ]; then
    say "refused: the library is $THEMS_LIBRARY_VERSION, the package is $version; they must be of one version."
    say "Nothing was changed. Let library and pipeline name the same branch or tag, then run the job again."
    exit 4
fi
for needed in python3 flock; do
    command -v "$needed" >/dev/null || { say "$needed is missing on this agent: apt install python3-venv util-linux"; exit 2; }
done

# A branch moves while its version stays: what the files say is the version.
files=$(find pyproject.toml uv.lock README.md jobs resources src -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum | sha256sum | cut -c 1-16)
home=${THEMS_ENVIRONMENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/thems-jobs/environments}
environment=$home/$version-$files
mkdir -p "$home"

make_environment() {
    say "making the environment of version $version ($files); this is done once on each agent"
    find "$home" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} + # each run touches its own
    rm -rf "$environment" # half-made by a build that was killed
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r resources/bootstrap/uv.txt
    for part in --no-install-project --no-build-isolation; do # first what builds the package, then the package
        UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=$environment "$environment/bin/uv" sync --quiet --frozen \
            --no-default-groups --group build --inexact --no-editable "$part"
    done
    touch "$environment/complete"
}

if ! [ -f "$environment/complete" ]; then
    exec 9>"$environment.lock"
    flock -n 9 || { say "another build makes the environment; waiting for it"; flock 9; }
    if ! [ -f "$environment/complete" ]; then make_environment >&2; fi
    exec 9>&-
fi
touch "$environment" "$environment.lock"
exec "$environment/bin/thems-jobs" "$@"
