"""From a checkpoint to mlx-lm's model and tokenizer."""

from __future__ import annotations

import gc
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from .. import dtypes
from ..backends import on_gpu
from ..errors import FormatError
from ..loading import GGUFFile
from ..loading import load as load_checkpoint
from ..loading.stored import METHOD
from ..nn import fuse_layers, replay_layers
from . import folder, gguf_config, gguf_tensors, gguf_tokenizer
from .build import build
from .dense import teach_mlx_lm
from .detokenizer import keep_all
from .host_layers import use_host_layers
from .shard import distribute, fit, resize
from .shard_layers import teach_mlx
from .shard_plan import Plan, Units, plan
from .source import only_gguf
from .tokenizer_files import of_folder

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def load(
    path: str | Path,
    dtype: mx.Dtype | None = None,
    ignore: Collection[str] = (),
    group: mx.distributed.Group | None = None,
    fuse: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """A quantized checkpoint as mlx-lm's own model, whose weights stay quantized, and its tokenizer.

    Args:
        path: a GGUF file or a folder, as for `mlx_dequant.load`, or a folder that holds one GGUF file. The
            architectures of GGUF files are those of `gguf_architectures`. A folder's model is any
            that mlx-lm knows and in which the quantized layers are linear layers.
        dtype: type of activations and of dense weights: float32, float16 or bfloat16. The default is
            float32 on the CPU, where MLX's half-precision operations are slow. On a GPU it is
            the type in config.json, and bfloat16 for GGUF.
        ignore: keys of config.json or of a GGUF file's metadata to leave out. Keys that nobody knows are refused, as
            are values that mlx-lm's model would ignore.
        group: processes that share the model, `mx.distributed.init()`. Each calls this, and reads and holds only its
            part of every layer; embeddings and the output layer are whole in each. The parts may differ in size.
        fuse: whether layers that take the same x share one product, as for `pack_model`. Not with a group of several
            processes.

    Returns:
        The model, for `mlx_lm.generate` and the rest of mlx-lm, and the tokenizer. On a GPU, decoder layers are
        compiled functions that layers share, if there is no group (docs/mlx-lm.md). On the host backend, the layers
        compute what lies between products in one node each (docs/architecture.md).

    Raises:
        FileNotFoundError: the file or folder, or a file it names, is missing.
        FormatError: the format or the architecture is not supported, a file is corrupt, or a layer cannot be cut into
            as many parts as there are processes.
    """
    if dtype is not None:
        dtypes.checked(dtype)
    source = opened(only_gguf(Path(path)))
    model, config = load_model(source, dtype, ignore=ignore, group=group, fuse=fuse)
    return model, load_tokenizer(source, eos_token_ids=config.get("eos_token_id"), ignore=ignore)


@contextmanager
def _without_collection() -> Generator[None]:
    """Python's garbage collector waits: it would look through hundreds of thousands of new tokens again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def opened(path: Path) -> Path | GGUFFile:
    """A folder's path, or an open GGUF file."""
    return path if path.is_dir() else GGUFFile(path)


@_without_collection()
def load_model(
    source: Path | GGUFFile,
    dtype: mx.Dtype | None = None,
    changes: Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    group: mx.distributed.Group | None = None,
    fuse: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and its config.json for mlx-lm, with which a saved model can be loaded again.

    Args:
        source: of `opened`.
        dtype: as for `load`.
        changes: what the config has instead, or besides.
        ignore: as for `load`.
        group: as for `load`.
        fuse: as for `load`.
    """
    group = group if group is not None and group.size() > 1 else None
    if fuse and group is not None:
        raise FormatError(f"fuse: found True with a group of {group.size()} processes, expected False: layers are cut")
    config = _config(source, ignore) | dict(changes or {})
    for key in ("quantize_activations", "model_file"):
        if config.get(key):
            raise FormatError(f"{key}: found {config[key]!r}, expected none with packed weights")
    found: Plan | None = None
    if isinstance(source, GGUFFile):
        model = folder.empty_model(config)
        if group is not None:
            found = _cut(model, config, group, partial(gguf_tensors.units, source, config))
        weights = gguf_tensors.weights(source, config, model, found.cut if found else None)
    else:
        checkpoint = load_checkpoint(source)
        folder.untie(config, checkpoint)
        model = folder.empty_model(config)
        if group is not None:
            found = _cut(model, config, group, folder.units(checkpoint))
        weights = folder.weights(checkpoint, model, found.cut if found else None)
    build(model, fit(weights, found) if found else weights, dtype or _default(config))
    del weights
    if fuse:
        fuse_layers(model)
    elif group is None:
        replay_layers(model)
    use_host_layers(model)
    if found and group:
        distribute(model, found, group)
    teach_mlx_lm()
    teach_mlx()
    before = config.get("quantization_config")
    if not isinstance(before, dict) or before.get("quant_method") != METHOD:
        config["quantization_config"] = {"quant_method": METHOD, **({"from": before} if before else {})}
    return model, config


def _cut(model: Any, config: Mapping[str, Any], group: mx.distributed.Group, units: Units) -> Plan:
    """This process's part of a model; the layers are cut, still without weights."""
    found = plan(model, config["model_type"], group.rank(), group.size(), units)
    resize(model, found)
    return found


@_without_collection()
def load_tokenizer(
    source: Path | GGUFFile,
    settings: Mapping[str, Any] | None = None,
    eos_token_ids: Any = None,
    ignore: Collection[str] = (),
) -> TokenizerWrapper:
    """The tokenizer, with mlx-lm's `tokenizer_config` and ids that end an answer, but for keys to leave out."""
    from mlx_lm import utils

    extra = dict(settings or {})
    if isinstance(source, GGUFFile):
        return gguf_tokenizer.tokenizer(source, extra, eos_token_ids, ignore)
    with of_folder(source):
        return keep_all(utils.load_tokenizer(source, extra, eos_token_ids=eos_token_ids))


def _config(source: Path | GGUFFile, ignore: Collection[str]) -> dict[str, Any]:
    if not isinstance(source, GGUFFile):
        return folder.config(source, ignore)
    ends = gguf_tokenizer.ends(source)
    return gguf_config.config(source, ignore) | ({"eos_token_id": ends} if ends else {})


def _default(config: Mapping[str, Any]) -> mx.Dtype:
    if not on_gpu():
        return mx.float32
    named = config.get("dtype") or config.get("torch_dtype")
    return {"float16": mx.float16, "float32": mx.float32}.get(str(named), mx.bfloat16)
