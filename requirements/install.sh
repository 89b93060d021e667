#!/bin/sh
# install.sh COMPONENT PREFIX [PYTHON]: an environment at PREFIX with what COMPONENT.lock says and this distribution.
# Run in the root of the repository, by the Dockerfiles and by tests. Nothing that only installs stays in PREFIX.
set -eu
component=${1:?operator, router or runtime}
prefix=${2:?where}
python=${3:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

pip() {
  environment=$1
  shift
  "$python" -m pip --python "$environment/bin/python" --disable-pip-version-check --no-cache-dir --quiet "$@"
}

"$python" -m venv --without-pip "$scratch/build"
pip "$scratch/build" install -r requirements/build.lock
"$scratch/build/bin/python" -m hatchling build --target wheel --directory "$scratch/wheels"

"$python" -m venv --without-pip "$prefix"
pip "$prefix" install -r "requirements/$component.lock"
pip "$prefix" install --no-deps --no-index "$scratch"/wheels/*.whl
