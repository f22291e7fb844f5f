"""Builds Mesa's AGX compiler, unmodified, from Debian's source package.

It needs Debian 12 and root (a container does), takes about five minutes and 1 GB of the cache folder, and installs
packages of Debian's.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from .compiler import folder

VERSION = "25.0.7"  # of Mesa, in Debian 13
_PACKAGES = (
    "dpkg-dev xz-utils ninja-build pkg-config bison flex gcc g++ python3-venv libdrm-dev libelf-dev zlib1g-dev "
    "libexpat1-dev libudev-dev clang-15 llvm-15-dev libclang-15-dev libclang-cpp15-dev libclang-common-15-dev "
    "llvm-spirv-15 libllvmspirvlib-15-dev libclc-15 libclc-15-dev spirv-tools"
)
_PYTHON = "meson mako pyyaml packaging pycparser setuptools"
# Everything off but what asahi_clc is made of.
_OFF = (
    "glx egl gbm gles1 gles2 gallium-va gallium-vdpau gallium-xa gallium-opencl valgrind libunwind lmsensors "
    "xmlconfig shader-cache"
)
_OPTIONS = (
    *("--buildtype=release", "-Db_ndebug=true", "-Dgallium-drivers=asahi", "-Dvulkan-drivers=", "-Dplatforms="),
    *("-Dllvm=enabled", "-Dshared-llvm=enabled", "-Dmesa-clc=enabled", "-Dvideo-codecs=", "-Dopengl=false"),
    *("-Dgallium-rusticl=false", "-Dbuild-tests=false", *(f"-D{name}=disabled" for name in _OFF.split())),
)


def missing() -> str:
    """Why the compiler cannot be built here; "" where it can."""
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    if 'VERSION_ID="12"' not in release or "ID=debian" not in release:
        return "Mesa's AGX compiler is built on Debian 12 (or in a container of it): this is another system"
    return "" if os.geteuid() == 0 else "Mesa's AGX compiler is built as root, who may install Debian's packages"


def build() -> None:
    """Leaves `asahi_clc` in the cache folder."""
    to = folder()
    to.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print(f"Building Mesa {VERSION}'s AGX compiler in {to}: about five minutes", flush=True)

    def run(*command: str | Path, **variables: str) -> None:
        with (to / "log.txt").open("a") as log:
            done = subprocess.run(command, cwd=to, stdout=log, stderr=log, env={**environment, **variables})
        if done.returncode:
            raise SystemExit(f"{command[0]} failed with {done.returncode}: see {to / 'log.txt'}")

    run("apt-get", "update", "-q")
    run("apt-get", "install", "-q", "-y", "--no-install-recommends", *_PACKAGES.split())
    archive = to / f"mesa_{VERSION}.orig.tar.xz"
    if not archive.is_file():
        sources = _sources(to)
        run("apt-get", *sources, "update", "-q")
        run("apt-get", *sources, "source", "--download-only", "mesa")
    if not archive.is_file():
        raise SystemExit(f"found no {archive.name} in Debian 13's sources: a newer Mesa's counts would differ")
    run("tar", "xf", archive)
    run("python3", "-m", "venv", "venv")
    run("venv/bin/pip", "install", "-q", *_PYTHON.split())
    (to / "native.ini").write_text("[binaries]\nllvm-config = '/usr/bin/llvm-config-15'\n")
    meson = ("venv/bin/meson", "setup", "--wipe", "build", f"mesa-{VERSION}", "--native-file", "native.ini")
    (to / "build").mkdir(exist_ok=True)
    path = {"PATH": f"{to / 'venv/bin'}:{environment['PATH']}", "PKG_CONFIG_PATH": "/usr/lib/llvm-15/lib/pkgconfig"}
    run(*meson, *_OPTIONS, **path)
    run("ninja", "-C", "build", "src/asahi/clc/asahi_clc", **path)


def _sources(to: Path) -> tuple[str, ...]:
    """Options with which apt reads Debian 13's sources, from the mirror that this machine uses, and nothing else."""
    listed = [*Path("/etc/apt/sources.list.d").glob("*.sources"), *Path("/etc/apt").glob("sources.list")]
    text = "\n".join(path.read_text() for path in listed)
    mirror = re.search(r"^(?:URIs:|deb)\s.*?(\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    if mirror is None:
        raise SystemExit("found no mirror of Debian's in /etc/apt")
    lists = to / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (to / "sources.list").write_text(f"deb-src [signed-by={key}] {mirror[1]} trixie main\n")
    options = (f"Dir::Etc::sourcelist={to / 'sources.list'}", "Dir::Etc::sourceparts=-", f"Dir::State::lists={lists}")
    # apt's own user cannot read a private folder.
    return tuple(word for option in (*options, "APT::Sandbox::User=root") for word in ("-o", option))
