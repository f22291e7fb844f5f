"""Hugging Face folders: config files, and which safetensors file has which tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..weights.cut import Cut, Places, dense_places
from .mapped import files, read_json
from .safetensors import SafetensorsFile
from .stored import METHOD, described

QUANTIZE_CONFIGS = ("quantize_config.json", "quant_config.json")
WHOLE = "model.safetensors"
MODELOPT = "hf_quant_config.json"
# The last names of tensors that only quantized modules have, and whose they are.
CODES = {
    "qweight": "GPTQ or AWQ",
    "B": "Marlin",
    **dict.fromkeys(("weight_packed", "weight_scale", "weight_scale_inv"), "compressed-tensors, FP8 or ModelOpt"),
    **dict.fromkeys(("absmax", "SCB"), "bitsandbytes"),
    **dict.fromkeys(("q_weight", "q_invperm", "trellis"), "ExLlama (EXL2, EXL3)"),
    **dict.fromkeys(("Qidxs", "SU", "SV"), "QuIP"),
    **dict.fromkeys(("codebooks", "W_q"), "AQLM or HQQ"),
    "weight_qdata": "TorchAO",
    "_data": "Quanto or TorchAO",
}


def quantization(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A folder's quantization config: of its config.json, or of a file beside it. Empty if it has none."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            section = part.get(key)
            if section and not isinstance(section, dict):
                raise FormatError(f"{path.name}: {key}: found {section!r}, expected an object")
            if section:
                return section
    for name in QUANTIZE_CONFIGS:
        if os.path.lexists(path / name):
            return read_json(path / name)
    if os.path.lexists(path / MODELOPT):
        section = read_json(path / MODELOPT).get("quantization")
        return {"quant_method": "modelopt", **(section if isinstance(section, dict) else {})}
    return {}


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
        self.config: dict[str, Any] = read_json(path / "config.json") if os.path.lexists(path / "config.json") else {}
        self.metadata: dict[str, str] = {}
        self.quantization = self._quantization()
        self.tensors: Mapping[str, SafetensorsFile] = MappingProxyType(dict(self._tensors()))

    def read(self, name: str, cut: Cut | None = None, places: Places | None = None) -> mx.array:
        """A tensor: all of it, the rows or columns of a dense matrix, or some places of any."""
        return self.tensors[name].read(name, places=dense_places(cut) if cut else places)

    def _quantization(self) -> dict[str, Any]:
        section = quantization(self.path, self.config)
        self._check_own(section or self.config.get("quantization"))
        if section:
            return section
        names = [name for name, _ in self._tensors()] if files(self.path, "*.safetensors") else []
        if described(names):
            return {"quant_method": METHOD}
        whose = next((CODES[part] for name in names if (part := name.rpartition(".")[2]) in CODES), "")
        others = [path.name for path in files(self.path, "*.gguf")]
        hint = f"; {others[0]} is a GGUF file: give its path" if others else ""
        if names:
            hint = f"its tensors are those of {whose}" if whose else "mlx_lm.load reads models that are not quantized"
            hint = f"; {hint}"
        elif files(self.path, "*.bin") and not others:
            hint = "; it has .bin files of PyTorch: convert them to safetensors"
        raise FormatError(
            f"{self.path.name}: found no quantization_config in config.json and no {QUANTIZE_CONFIGS[0]}, expected the "
            f"settings of a quantized model{hint}"
        )

    def _check_own(self, section: Any) -> None:
        """Refuses the settings of MLX's own quantization."""
        if not isinstance(section, dict) or {"quant_method", "method"} & section.keys():
            return
        if "mode" in section or isinstance(self.config.get("quantization"), dict):
            raise FormatError(f"{self.path.name}: found MLX's own quantization, expected another: mlx_lm.load reads it")

    def _tensors(self) -> Iterator[tuple[str, SafetensorsFile]]:
        listed = self._index()
        names = sorted(set(listed.values())) if listed is not None else self._files()
        if listed is not None and (self.path / WHOLE).is_file() and not self._fits(listed):
            # An index that was copied from another model. transformers takes the whole file first, too.
            listed, names = None, [WHOLE]
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

    def _fits(self, listed: dict[str, str]) -> bool:
        """Whether the files have what an index lists, and it lists a quantized tensor if the whole file has one."""
        if not all((self.path / name).is_file() for name in listed.values()):
            return False
        held = {name: SafetensorsFile(self.path / name).tensors for name in sorted({*listed.values(), WHOLE})}
        quantized = any(name.rpartition(".")[2] in CODES for name in listed)
        return all(tensor in held[name] for tensor, name in listed.items()) and (
            quantized or not any(name.rpartition(".")[2] in CODES for name in held[WHOLE])
        )

    def _index(self) -> dict[str, str] | None:
        indices = files(self.path, "*.safetensors.index.json")
        if not indices:
            return None
        usual = self.path / f"{WHOLE}.index.json"
        path = usual if usual in indices else indices[0]
        index = read_json(path).get("weight_map")
        if not isinstance(index, dict):
            raise FormatError(f"{path.name}: found no weight_map")
        for tensor, name in index.items():
            # Only files of this folder: an index may be hostile.
            plain = isinstance(name, str) and name.endswith(".safetensors") and name.isprintable()
            plain = plain and not set(name) & set("/\\:")
            if not plain:
                raise FormatError(f"{path.name}: tensor {tensor!r}: found file {name!r}, expected a name.safetensors")
        return index

    def _files(self) -> list[str]:
        if (self.path / WHOLE).is_file():
            return [WHOLE]
        found = [file.name for file in files(self.path, "*.safetensors")]
        if not found:
            raise FormatError(f"{self.path.name}: found no safetensors file")
        return found
