#!/bin/sh
# install.sh libraries LOCK PREFIX [PYTHON]: an environment at PREFIX with what LOCK.lock says, less what left_out.toml
#   names, and beside it, at PREFIX.build, what builds.
# install.sh product LOCK PREFIX: this distribution for that environment, at PREFIX.product: copied over PREFIX, it
#   completes it. So a change of the source rebuilds, and moves, that little.
# Run in the root of the repository, by the Dockerfiles and by tests. Nothing that only installs stays in PREFIX, and
# nothing is installed whose hash is not in the lock; only diffusers.lock has none, for torch's builds for CPUs.
set -eu
part=${1:?libraries or product}
lock=${2:?operator, router, runtime, runtime-cpu or diffusers}
prefix=${3:?where}
build=$prefix.build/bin/python

# install WITH INTO ...: the pip of one environment installs into another.
install() {
  with=$1 into=$2
  shift 2
  "$with" -m pip --python "$into/bin/python" --disable-pip-version-check --no-cache-dir --quiet install --no-compile --no-warn-script-location "$@"
}

case $part in
libraries)
  python=${4:-python3}
  # The pip that comes with a Python may be old, and takes longer than the pinned one.
  "$python" -m venv --without-pip "$prefix.build"
  install "$python" "$prefix.build" --require-hashes -r requirements/pip.lock -r requirements/build.lock
  "$python" -m venv --without-pip "$prefix"
  if [ "$lock" = diffusers ]; then
    install "$build" "$prefix" -r "requirements/$lock.lock"
  else
    install "$build" "$prefix" --require-hashes -r "requirements/$lock.lock" -r requirements/python-3.11.2.lock
  fi
  "$build" requirements/trim.py libraries "$lock" "$prefix"
  ;;
product)
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  "$build" -m hatchling build --target wheel --directory "$scratch/wheels"
  install "$build" "$prefix" --no-deps --no-index --root "$scratch/root" "$scratch"/wheels/*.whl
  mv "$scratch/root$prefix" "$prefix.product"
  "$build" requirements/trim.py product "$lock" "$prefix.product"
  "$prefix/bin/python" -B requirements/precompile.py "$prefix"
  "$build" requirements/sbom.py "$lock" "$prefix.product/sbom.cdx.json" "$prefix" "$prefix.product"
  ;;
*)
  echo "install.sh: $part is neither libraries nor product" >&2
  exit 2
  ;;
esac
