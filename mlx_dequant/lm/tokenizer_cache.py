"""What tokenizers need and takes long to derive, kept in the cache with the care of its compiled programs.

An entry is a file, `tokenizers/KIND-KEY`: its content, then the content's SHA-256. A key is a hash of what the content
was derived from. An entry that is damaged, or that somebody else can write to, counts as none.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from ..disk_cache import cache_folder, private_folder, refuse_others, replace_file
from ..log import logger

LARGEST = 32 << 20  # bytes of an entry; Gemma's is 4 MB
TOGETHER = 64 << 20  # bytes of all of them: those that were not used for longest go first
_SUM = hashlib.sha256().digest_size


def read(kind: str, key: str) -> bytes | None:
    """An entry's content, or None."""
    try:
        path = _folder() / f"{kind}-{key}"
        status = path.lstat()
        refuse_others(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        content = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s: not read from the cache: %s", kind, error)
        return None
    content, sum_of_content = content[:-_SUM], content[-_SUM:]
    if hashlib.sha256(content).digest() != sum_of_content:
        logger.warning("%s: found a damaged entry, derived again", path)
        return None
    return content


def write(kind: str, key: str, content: bytes) -> None:
    """Keeps an entry, whole or not at all. Where the cache cannot be written, nothing is kept."""
    if len(content) + _SUM > LARGEST:
        return
    try:
        folder = _folder()
        replace_file(folder / f"{kind}-{key}", content + hashlib.sha256(content).digest())
        _forget(folder)
    except OSError as error:
        logger.warning("%s: not kept in the cache: %s", kind, error)


def _folder() -> Path:
    private_folder(cache_folder())
    return private_folder(cache_folder() / "tokenizers")


def _forget(folder: Path) -> None:
    """Removes the entries that were not used for longest, until the others have room."""
    found = [(path.lstat(), path) for path in folder.iterdir() if not path.is_dir()]
    size = 0
    for status, path in sorted(found, key=lambda entry: -entry[0].st_mtime):
        size += status.st_size
        if size > TOGETHER:
            path.unlink(missing_ok=True)
