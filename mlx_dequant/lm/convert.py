"""A model written as a folder: packed as it is, or in MLX's own format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..errors import FormatError
from ..loading import GGUFFile
from ..nn import PackedLayer
from .gguf_delta import untiled
from .load import load_model, load_tokenizer, opened
from .mlx_layout import error, mlx_weight
from .source import only_gguf
from .stock import check_own_classes
from .variants import TILED
from .writing import Writing

TARGETS = ("packed", "mlx")


@dataclass(frozen=True)
class Converted:
    """What became of a layer.

    Attributes:
        name: the layer's.
        source: the format that it had: "Q4_K".
        target: the one that it has: "Q4_K", "affine 4-bit, groups of 32", "float16".
        error: largest difference of a weight, relative to the largest weight; 0 is exact.
    """

    name: str
    source: str
    target: str
    error: float


def convert(
    path: str | Path, target: str | Path, to: str = "packed", report: Callable[[Converted], None] | None = None
) -> list[Converted]:
    """Writes a checkpoint as a folder with config.json, safetensors and the tokenizer.

    Args:
        path: as for `load`.
        target: the folder to write. It appears when it is complete, or not at all.
        to: "packed": the same quantized weights, for `mlx_dequant.load`, `lm.load` and `install`. "mlx": for
            mlx_lm.load without this package: codes that fit MLX's layout keep their values, but for scales that are
            rounded to float16; other layers become float16.
        report: called with each layer when it is done.

    Raises:
        FileExistsError: the target is there already.
        FormatError: as for `load`, or MLX's own model cannot be told what the checkpoint says.
    """
    if to not in TARGETS:
        raise FormatError(f"to: found {to!r}, expected {' or '.join(TARGETS)}")
    with Writing(Path(target)) as out:
        source = opened(only_gguf(Path(path)))
        model, config = load_model(source, mx.float32)
        tokenizer = load_tokenizer(source, eos_token_ids=config.get("eos_token_id"))
        write = _packed if to == "packed" else _mlx
        rows: list[Converted] = []
        for row in write(model, config, out):
            rows.append(row)
            if report:
                report(row)
        tokenizer.save_pretrained(str(out.folder))
        if not isinstance(source, GGUFFile) and (source / "generation_config.json").is_file():
            shutil.copy(source / "generation_config.json", out.folder)
        out.finish(config)
    return rows


def _layers(model: nn.Module) -> dict[str, Any]:
    """The packed layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, PackedLayer)}


def _parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    return flat


def _packed(model: nn.Module, config: dict[str, Any], out: Writing) -> Iterator[Converted]:
    for name, array in _parameters(model):
        out.add(name, array)
    for name, layer in _layers(model).items():
        title = layer.weight.format.title
        yield Converted(name, title, title, 0.0)


def _mlx(model: nn.Module, config: dict[str, Any], out: Writing) -> Iterator[Converted]:
    del config["quantization_config"]
    config["torch_dtype"] = "float16"
    text = config.get("text_config") or config
    tiled, layers = text.pop(TILED, False), _layers(model)
    is_cast = getattr(model, "cast_predicate", lambda name: True)

    def is_tiled(name: str) -> bool:
        """Whether MLX's own model has the layer's inputs in another order."""
        return tiled and name.endswith("linear_attn.out_proj")

    def placed(name: str, array: mx.array) -> mx.array:
        return untiled(array, text) if is_tiled(name) else array

    check_own_classes(model, config)
    for name, array in _parameters(model):
        layer, _, part = name.rpartition(".")
        if layer not in layers or part == "bias":
            cast = mx.issubdtype(array.dtype, mx.floating) and is_cast(name)
            out.add(name, array.astype(mx.float16) if cast else array)
    quantization: dict[str, Any] = {}
    for name, layer in layers.items():
        title, found = layer.weight.format.title, mlx_weight(layer.weight)
        if found and is_tiled(name) and found.arrays["scales"].shape[-1] % text["linear_num_value_heads"]:
            found = None  # a group holds parts of two heads
        if found is None:
            dense = layer.dense(mx.float16).weight
            out.add(f"{name}.weight", mx.contiguous(placed(name, dense)))
            exact = np.asarray(layer.dense(mx.float32).weight)
            yield Converted(name, title, "float16", error(np.asarray(dense.astype(mx.float32)), exact))
            continue
        for part, array in found.arrays.items():
            out.add(f"{name}.{part}", mx.contiguous(placed(name, array)))
        quantization[name] = found.settings
        bits, size = found.settings["bits"], found.settings["group_size"]
        yield Converted(name, title, f"{found.settings['mode']} {bits}-bit, groups of {size}", found.error)
    if quantization:
        kinds = list(quantization.values())
        config["quantization"] = {**max(kinds, key=kinds.count), **quantization}
