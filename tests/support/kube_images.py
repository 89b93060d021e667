"""The project's images for tests on real pods: built by buildah from the Dockerfiles, kept as archives between runs.

They are those of the working tree and, for a test that upgrades from them, those of an earlier commit.

The base that the Dockerfiles name is made from Debian's packages instead of pulled, and so is the image of the chart's
Redis (Debian's own, not the Valkey that its name says): no registry of images is asked. An image is built again when
what goes into it has changed. Needs root, and installs buildah, crun and mmdebstrap with apt-get where they are
missing. Behind a proxy or a mirror, the builds use this machine's proxies, certificates and pip configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONTEXT = ("pyproject.toml", "README.md", "LICENSE", "requirements", "crds", "operator", "router", "profiler",
           "model-repo")  # fmt: skip
PROGRAMS = ("buildah", "crun", "mmdebstrap")
DEBIAN = "bookworm"
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,libpython3.11"
BASE_LINKS = {"usr/bin/python": "python3", "usr/lib/libpython3.11.so.1.0": "x86_64-linux-gnu/libpython3.11.so.1.0"}
REDIS_PACKAGES = "redis-server,ca-certificates"
BASE_WHEEL = "async-timeout==5.0.1"
"""Debian's Python is 3.11.2. The client of Redis needs this below 3.11.3, and the locks are for the base's 3.11.13."""
REGISTRIES = ("docker.io/library", "registry.example.com/team")
"""Where the chart's default values, and the values in docs/install.md, look for the project's images."""
STORAGE_LIMIT_BYTES = 12 * 2**30
"""If the layers of all builds take more than this, they are all deleted."""


EARLIER = "earlier"
"""The tag of the earlier images."""


@dataclass(frozen=True)
class Tree:
    """A state of the repository, and the tag of the images that are built from it."""

    root: Path
    tag: str

    def content(self) -> list[str | bytes]:
        """All that the Dockerfiles may copy, and where it stands."""
        named = [self.root / name for name in CONTEXT]
        found = [file for path in named for file in (path, *path.rglob("*")) if file.is_file()]
        files = sorted(file for file in found if "__pycache__" not in file.parts)
        return [file.read_bytes() + str(file.relative_to(self.root)).encode() for file in files]


@dataclass(frozen=True)
class Build:
    """One of the project's images."""

    tree: Tree
    name: str
    dockerfile: str
    arguments: tuple[str, ...] = ()

    def names(self) -> list[str]:
        return [f"{registry}/diffusion-cascade-{self.name}:{self.tree.tag}" for registry in REGISTRIES]


def cache() -> Path:
    """Where images are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion-cascade"


def version() -> str:
    """The tag by which the chart asks for its images."""
    return str(yaml.safe_load((ROOT / "helm/diffusion-cascade/Chart.yaml").read_text())["appVersion"])


def base_name() -> str:
    """The base that the Dockerfiles name."""
    (name,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "operator/Dockerfile").read_text(), re.MULTILINE)
    return str(name)


def builds(tree: Tree) -> list[Build]:
    """The images of the project; Triton's is the one without a GPU's libraries."""
    return [
        Build(tree, "operator", "operator/Dockerfile"),
        Build(tree, "router", "router/Dockerfile"),
        Build(tree, "triton", "model-repo/Dockerfile", (f"BASE={base_name()}", "LOCK=runtime-cpu")),
    ]


def earlier_commit() -> str | None:
    """The commit to upgrade from: the last one whose images or chart differ from the present ones.

    None where there is none, as in a shallow clone, or where the definitions have changed since then: objects and plans
    of another form are not upgraded as long as the form is not released.
    """
    paths = [*CONTEXT, "helm"]
    last = "HEAD" if git("status", "--porcelain", "--", *paths) else git("log", "-1", "--format=%H", "--", *paths) + "^"
    commit = git("rev-parse", "--verify", "--quiet", f"{last}^{{commit}}")
    if not commit:
        say(f"no earlier ones: {last} is not in this clone")
    elif git("diff", "--name-only", commit, "--", "crds/*.yaml"):
        say(f"no earlier ones: the definitions have changed since {commit[:10]}")
    else:
        return commit
    return None


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def earlier_tree() -> Iterator[Tree | None]:
    """The files of `earlier_commit`, inside the block."""
    commit = earlier_commit()
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        packed = subprocess.run(
            ["git", "-c", "tar.umask=0022", "archive", commit], cwd=ROOT, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", directory], input=packed, check=True)
        yield Tree(Path(directory), EARLIER)


def archives() -> list[Path]:
    """Archives of all images that the chart needs with its default values, built where they are not there yet."""
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock, earlier_tree() as earlier:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trees = [Tree(ROOT, version()), *([earlier] if earlier else [])]
        wanted = wanted_archives(folder, trees)
        missing = {path: build for path, build in wanted.items() if not path.exists()}
        for old in set(folder.glob("*.tar")) - set(wanted):
            old.unlink()
        if missing:
            install_programs()
            Builder(folder).make(missing)
        return list(wanted)


def wanted_archives(folder: Path, trees: Sequence[Tree]) -> dict[Path, Build | None]:
    """What to build for each, None for Redis; the file's name holds a digest of all that the image is made of."""
    base = digest(DEBIAN, BASE_PACKAGES, json.dumps(BASE_LINKS), BASE_WHEEL, Path(__file__).read_bytes())
    redis = digest(DEBIAN, REDIS_PACKAGES, redis_name(), Path(__file__).read_bytes())
    wanted: dict[Path, Build | None] = {folder / f"redis-{redis}.tar": None}
    for tree in trees:
        content = digest(base, tree.tag, *tree.content())
        for build in builds(tree):
            key = digest(content, build.name, build.dockerfile, *build.arguments)
            wanted[folder / f"{build.name}-{key}.tar"] = build
    return wanted


def digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return whole.hexdigest()[:16]


def redis_name() -> str:
    """The image of the chart's own Redis, by its default values."""
    image = yaml.safe_load((ROOT / "helm/diffusion-cascade/values.yaml").read_text())["redis"]["bundled"]["image"]
    return f"{image['repository']}:{image['tag']}"


def install_programs() -> None:
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        say(f"installing {' and '.join(missing)} with apt-get")
        quiet = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        subprocess.run([*quiet, "update"], check=True)
        subprocess.run([*quiet, "install", "-y", "--no-install-recommends", *missing], check=True)


def say(text: str) -> None:
    print(f"images: {text}", file=sys.stderr, flush=True)


class Builder:
    """Builds into a storage of its own, so that nothing of this machine's other images is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        used = subprocess.run(["du", "-sbx", self.storage], capture_output=True, text=True, check=False).stdout
        if used and int(used.split()[0]) > STORAGE_LIMIT_BYTES:
            say("throwing old layers away")
            self.buildah("rm", "--all")
            self.buildah("rmi", "--all", "--force")

    def make(self, missing: Mapping[Path, Build | None]) -> None:
        self.buildah("rm", "--all")  # what a build left that failed
        self.base()
        for path, build in missing.items():
            begun = time.monotonic()
            names = [redis_name()] if build is None else build.names()
            if build is None:
                self.redis(names[0])
            else:
                self.build(build, names[0])
            self.export(names, path)
            size_mb = path.stat().st_size / 1e6
            say(f"{names[0]}: {size_mb:.0f} MB, in {time.monotonic() - begun:.0f} s")

    def buildah(self, *arguments: str | Path, folder: Path = ROOT) -> str:
        where = ["--root", self.storage, "--runroot", self.folder / "run", "--storage-driver", "overlay"]
        done = subprocess.run(
            ["buildah", *where, *arguments], cwd=folder, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, (
            f"buildah {' '.join(map(str, arguments))}: {done.stderr[-3000:]}{done.stdout[-3000:]}"
        )
        return done.stdout.strip()

    def base(self) -> None:
        """The image that the Dockerfiles start from, under its name."""
        recipe = digest(DEBIAN, BASE_PACKAGES, json.dumps(BASE_LINKS), BASE_WHEEL)
        mark = f"localhost/base:{recipe}"
        if mark in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
            return
        begun = time.monotonic()
        container = self.debian(BASE_PACKAGES)
        top = Path(self.buildah("mount", container))
        for link, target in BASE_LINKS.items():
            (top / link).unlink(missing_ok=True)
            (top / link).symlink_to(target)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", top / "usr/lib/python3.11", BASE_WHEEL], check=True)
        self.commit(container, mark)
        self.buildah("tag", mark, base_name())
        say(f"base of Debian's packages, in {time.monotonic() - begun:.0f} s")

    def redis(self, name: str) -> None:
        """Debian's Redis under the name of the server that the chart starts."""
        container = self.debian(REDIS_PACKAGES)
        (Path(self.buildah("mount", container)) / "usr/bin/valkey-server").symlink_to("redis-server")
        self.commit(container, name)

    def debian(self, packages: str) -> str:
        """A container of Debian with these packages and what they need."""
        root = self.folder / "debian.tar"
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={packages}"]
        subprocess.run([*command, DEBIAN, str(root)], check=True, timeout=1800)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, root, "/")
        root.unlink()
        return container

    def commit(self, container: str, name: str) -> None:
        self.buildah("commit", "--quiet", "--rm", "--format", "docker", container, name)

    def build(self, build: Build, name: str) -> None:
        options = [f"--volume={source}:{target}:ro" for source, target in machine_files()]
        options += [f"--build-arg={argument}" for argument in build.arguments]
        self.buildah(
            "build", "--quiet", "--layers", "--isolation=chroot", "--network=host", "--format=docker",
            "--pull=never", *options, "--file", build.dockerfile, "--tag", name, ".",
            folder=build.tree.root,
        )  # fmt: skip

    def export(self, names: Sequence[str], path: Path) -> None:
        """An archive of the image with all its names."""
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        self.buildah("push", "--quiet", names[0], f"docker-archive:{unfinished}:{names[0]}")
        with tarfile.open(unfinished) as archive:
            manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        manifest[0]["RepoTags"] = list(names)
        text = json.dumps(manifest).encode()
        with tarfile.open(unfinished, "a") as archive:  # the last of a name counts
            entry = tarfile.TarInfo("manifest.json")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        unfinished.rename(path)


def machine_files() -> list[tuple[Path, str]]:
    """This machine's certificates and pip configuration, and where a build looks for them."""
    places = {"/etc/ssl/certs": "/etc/ssl/certs", "/etc/pip.conf": "/etc/pip.conf"}
    places[str(Path.home() / ".config/pip/pip.conf")] = "/root/.config/pip/pip.conf"
    return [(Path(source), target) for source, target in places.items() if Path(source).exists()]


if __name__ == "__main__":
    for archive in archives():
        print(archive)
