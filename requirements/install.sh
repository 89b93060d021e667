#!/bin/sh
# install.sh COMPONENT PREFIX [PYTHON]: an environment at PREFIX with what COMPONENT.lock says and this distribution.
# Run in the root of the repository, by the Dockerfiles and by tests. Nothing that only installs stays in PREFIX, and
# nothing is installed whose hash is not in the lock; only diffusers.lock has none, for torch's builds for CPUs.
set -eu
component=${1:?operator, router, runtime, runtime-cpu or diffusers}
prefix=${2:?where}
python=${3:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# install WITH INTO ...: the pip of one environment installs into another.
install() {
  with=$1 into=$2
  shift 2
  "$with" -m pip --python "$into/bin/python" --disable-pip-version-check --no-cache-dir --quiet install "$@"
}

# The pip that comes with a Python may be old, and takes longer than the pinned one.
"$python" -m venv --without-pip "$scratch/build"
build=$scratch/build/bin/python
install "$python" "$scratch/build" --require-hashes -r requirements/pip.lock -r requirements/build.lock
"$build" -m hatchling build --target wheel --directory "$scratch/wheels"

"$python" -m venv --without-pip "$prefix"
if [ "$component" = diffusers ]; then
  install "$build" "$prefix" -r "requirements/$component.lock"
else
  install "$build" "$prefix" --require-hashes -r "requirements/$component.lock"
fi
install "$build" "$prefix" --no-deps --no-index "$scratch"/wheels/*.whl
