"""From a checkpoint to mlx-lm's model and tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from .. import dtypes
from ..backends import is_lazy
from ..errors import FormatError
from . import folder, gguf_config, gguf_tensors, gguf_tokenizer
from .build import build

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def load(
    path: str | Path, dtype: mx.Dtype | None = None, ignore: Collection[str] = ()
) -> tuple[nn.Module, TokenizerWrapper]:
    """A quantized checkpoint as mlx-lm's own model, whose weights stay quantized, and its tokenizer.

    Args:
        path: a GGUF file or a folder, as for `mlx_dequant.load`. A GGUF file's model is a llama (also
            Mistral, SmolLM2), qwen2, qwen3 or gemma3 (text). A folder's model is any that mlx-lm
            knows and in which the quantized layers are linear layers.
        dtype: type of activations and of dense weights: float32, float16 or bfloat16. The default is
            float32 on the CPU, where MLX's half-precision operations are slow. On a GPU it is
            the type in config.json, and bfloat16 for GGUF.
        ignore: keys of config.json to leave out. Keys that nobody knows are refused, as are values that
            mlx-lm's model would ignore.

    Returns:
        The model, for `mlx_lm.generate` and the rest of mlx-lm, and the tokenizer.

    Raises:
        FileNotFoundError: the file or folder, or a file it names, is missing.
        FormatError: the format or the architecture is not supported, or a file is corrupt.
    """
    path = Path(path)
    if dtype is not None and not dtypes.is_float(dtype):
        raise FormatError(f"dtype: found {dtype}, expected float32, float16 or bfloat16")
    return _load_folder(path, dtype, ignore) if path.is_dir() else _load_gguf(path, dtype)


def _load_gguf(path: Path, dtype: mx.Dtype | None) -> tuple[nn.Module, TokenizerWrapper]:
    from ..loading import GGUFFile

    file = GGUFFile(path)
    config = gguf_config.config(file)
    model = folder.empty_model(config)
    build(model, gguf_tensors.weights(file, config, model), dtype or _default(config))
    gguf_tensors.scale_rope(file, config, model)
    return model, gguf_tokenizer.tokenizer(file)


def _load_folder(path: Path, dtype: mx.Dtype | None, ignore: Collection[str]) -> tuple[nn.Module, TokenizerWrapper]:
    from mlx_lm.utils import load_tokenizer

    from ..loading import load as load_checkpoint

    checkpoint = load_checkpoint(path)
    config = folder.config(path, ignore)
    folder.untie(config, checkpoint)
    model = folder.empty_model(config)
    build(model, folder.weights(checkpoint, model), dtype or _default(config))
    return model, load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))


def _default(config: dict[str, Any]) -> mx.Dtype:
    if not is_lazy():
        return mx.float32
    named = config.get("dtype") or config.get("torch_dtype")
    return {"float16": mx.float16, "float32": mx.float32}.get(str(named), mx.bfloat16)
