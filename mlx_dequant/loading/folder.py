"""Hugging Face folders: config files, and which safetensors file has which tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from .mapped import read_json
from .safetensors import SafetensorsFile

QUANTIZE_CONFIGS = ("quantize_config.json", "quant_config.json")


class Folder:
    """The config files and tensors of a folder.

    Attributes:
        path: the folder.
        config: config.json; empty without one.
        quantization: the quantization config, from config.json or beside it.
        metadata: the strings in the headers of the safetensors files.
        tensors: the file of each tensor by name, in the files' order.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config: dict[str, Any] = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        self.quantization = self._quantization()
        self.metadata: dict[str, str] = {}
        self.tensors: Mapping[str, SafetensorsFile] = MappingProxyType(dict(self._tensors()))

    def read(self, name: str) -> mx.array:
        return self.tensors[name].read(name)

    def _quantization(self) -> dict[str, Any]:
        for key in ("quantization_config", "compression_config"):
            section = self.config.get(key)
            if isinstance(section, dict) and section:
                return section
        for name in QUANTIZE_CONFIGS:
            if (self.path / name).is_file():
                return read_json(self.path / name)
        found = "MLX's own quantization" if "quantization" in self.config else "no quantization_config"
        raise FormatError(
            f"{self.path.name}: found {found}, expected a quantization_config in config.json or a {QUANTIZE_CONFIGS[0]}"
        )

    def _tensors(self) -> Iterator[tuple[str, SafetensorsFile]]:
        listed = self._index()
        names = sorted(set(listed.values())) if listed is not None else self._files()
        where: dict[str, str] = {}
        for name in names:
            file = SafetensorsFile(self.path / name)
            self.metadata.update(file.metadata)
            for tensor in file.tensors:
                if listed is not None and listed.get(tensor) != name:
                    continue
                if where.setdefault(tensor, name) != name:
                    raise FormatError(f"{self.path.name}: tensor {tensor!r}: found in {where[tensor]} and {name}")
                yield tensor, file
        missing = (listed or {}).keys() - where.keys()
        if missing:
            tensor = min(missing)
            raise FormatError(f"{self.path.name}: tensor {tensor!r}: not found in {listed and listed[tensor]}")

    def _index(self) -> dict[str, str] | None:
        indices = sorted(path for path in self.path.glob("*.safetensors.index.json") if path.is_file())
        if not indices:
            return None
        index = read_json(indices[0]).get("weight_map")
        if not isinstance(index, dict):
            raise FormatError(f"{indices[0].name}: found no weight_map")
        for tensor, name in index.items():
            # Only files of this folder: an index may be hostile.
            plain = isinstance(name, str) and name.endswith(".safetensors") and name.isprintable()
            plain = plain and not set(name) & set("/\\:")
            if not plain:
                raise FormatError(
                    f"{indices[0].name}: tensor {tensor!r}: found file {name!r}, expected a name.safetensors"
                )
        return index

    def _files(self) -> list[str]:
        if (self.path / "model.safetensors").is_file():
            return ["model.safetensors"]
        files = sorted(file.name for file in self.path.glob("*.safetensors"))
        if not files:
            raise FormatError(f"{self.path.name}: found no safetensors file")
        return files
