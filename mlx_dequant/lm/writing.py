"""A model's folder, written tensor by tensor, and there only when it is complete."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import mlx.core as mx

SHARD = 1 << 30


class Writing:
    """Writes safetensors files of about 1 GiB, their index and config.json into a hidden folder beside the target.

    Used as a context. `finish` gives the hidden folder the target's name; without it, it is removed. Each process
    has a folder of its own, which it locks. What a killed process leaves is not locked, and is removed by the next one.

    Attributes:
        folder: where to put what else belongs to the model, until then.

    Raises:
        FileExistsError: the target is there already.
    """

    def __init__(self, target: Path):
        if target.exists():
            raise FileExistsError(f"{target}: found a file or folder there, expected none")
        self._target = target
        self.folder = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
        self._lock: int | None = None
        self._shard: dict[str, mx.array] = {}
        self._files: list[list[str]] = []
        self._total = 0

    def __enter__(self) -> Writing:
        for left in self.folder.parent.glob(f".{glob.escape(self._target.name)}.*.part"):
            _remove_if_left(left)
        # Locked before it has a name by which others find it.
        made = self.folder.with_suffix(".new")
        made.mkdir(parents=True)
        self._lock = os.open(made, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nobody removes it then
            _lock(self._lock)
        made.rename(self.folder)
        return self

    def add(self, name: str, array: mx.array) -> None:
        """One tensor more."""
        if self._shard and sum(held.nbytes for held in self._shard.values()) + array.nbytes > SHARD:
            self._flush()
        self._shard[name] = array
        self._total += array.nbytes

    def finish(self, config: dict[str, Any]) -> None:
        """No more tensors. Writes the index and config.json, and gives the folder its name."""
        self._flush()
        count, where = len(self._files), dict[str, str]()
        for number, names in enumerate(self._files):
            file = f"model-{number + 1:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
            (self.folder / f"{number}.safetensors").rename(self.folder / file)
            where |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(where.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        (self.folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2))
        self.folder.rename(self._target)

    def _flush(self) -> None:
        file = self.folder / f"{len(self._files)}.safetensors"
        try:
            mx.save_safetensors(str(file), self._shard, {"format": "mlx"})
        except RuntimeError as error:  # no space, for one
            raise OSError(f"{self._target}: {error}") from error
        self._files.append(list(self._shard))
        self._shard = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # gone already, if it was finished
        if self._lock is not None:
            os.close(self._lock)


def _lock(opened: int) -> None:
    """Locks what the file descriptor is of; OSError if another has."""
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_if_left(folder: Path) -> None:
    """Removes a folder that no process has locked."""
    with suppress(OSError):  # another process writes it, or has removed it
        opened = os.open(folder, os.O_RDONLY)
        try:
            _lock(opened)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(opened)
