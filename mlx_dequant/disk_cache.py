"""The user's cache: what is compiled, tokenizers, the demo model. Nobody else may write to it."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """MLX_DEQUANT_CACHE, or the user's cache folder."""
    folder = os.environ.get("MLX_DEQUANT_CACHE")
    if folder:
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx-dequant"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-dequant"


def private_folder(folder: Path) -> Path:
    """The folder, made if missing. A folder that others can write to is refused."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_others(folder)
    return folder


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file of this user's in the cache, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        part = Path(work) / "part"
        part.touch(mode=0o600)
        part.write_bytes(content)
        part.replace(path)


def refuse_others(path: Path) -> None:
    status = path.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path} is not this user's alone to write (set MLX_DEQUANT_CACHE to a folder that is)")
