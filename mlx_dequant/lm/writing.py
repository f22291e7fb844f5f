"""A model's folder, written tensor by tensor, and there only when it is complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx

SHARD = 1 << 30


class Writing:
    """Writes safetensors files of about 1 GiB, their index and config.json into a hidden folder beside the target.

    Used as a context. `finish` gives the hidden folder the target's name; without it, it is removed. What a
    killed process leaves has another name and no config.json, and is removed by the next one.

    Attributes:
        folder: where to put what else belongs to the model, until then.

    Raises:
        FileExistsError: the target is there already.
    """

    def __init__(self, target: Path):
        if target.exists():
            raise FileExistsError(f"{target}: found a file or folder there, expected none")
        self._target = target
        self.folder = target.with_name(f".{target.name}.part")
        self._shard: dict[str, mx.array] = {}
        self._files: list[list[str]] = []
        self._total = 0

    def __enter__(self) -> Writing:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
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
        mx.save_safetensors(str(self.folder / f"{len(self._files)}.safetensors"), self._shard, {"format": "mlx"})
        self._files.append(list(self._shard))
        self._shard = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # gone already, if it was finished
