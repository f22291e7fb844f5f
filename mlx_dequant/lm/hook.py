"""mlx-lm's own `load`, and all that is built on it, made to open our checkpoints.

`mlx_lm.load` finds, loads and tokenizes by three functions of mlx_lm.utils, looked up when it runs. Those are
replaced, not `load` itself: so it keeps its parameters, and who imported it has it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import dtypes
from ..errors import FormatError
from ..loading import GGUFFile
from . import source
from .dense import teach_mlx_lm
from .detokenizer import keep_all
from .load import load_model, load_tokenizer, opened
from .rebind import rebind
from .tokenizer_files import of_folder

Group = mx.distributed.Group | None

_replaced: dict[str, tuple[Any, Any]] = {}


@dataclass(frozen=True)
class _Options:
    """How models are loaded: arguments of `mlx_dequant.lm.load`."""

    dtype: mx.Dtype | None
    group: Group
    fuse: bool


def install(dtype: mx.Dtype | None = None, group: mx.distributed.Group | None = None, fuse: bool = False) -> None:
    """Makes `mlx_lm.load` open GGUF files and quantized folders, with their weights packed; `uninstall` undoes it.

    mlx_lm.load(path), mlx_lm.server, chat, generate, lora, fuse, benchmark, perplexity and the rest of mlx-lm then
    take a GGUF file, a folder that holds one, a folder quantized by GPTQ, AWQ, compressed-tensors or auto-round or
    written by this package, or the Hub's name of one: "REPO" or "REPO:FILE.gguf". Everything else is loaded
    as before. Packed weights are read at once, also with lazy=True.

    Args:
        dtype: type of activations and of dense weights, as for `mlx_dequant.lm.load`.
        group: processes that share each model, as for `mlx_dequant.lm.load`. mlx-lm's server, chat and benchmark
            share one over all processes without it.
        fuse: whether layers that take the same x share one product, as for `mlx_dequant.lm.load`. Models that mlx-lm
            shares over processes have a product for each.

    Raises:
        FormatError: this release of mlx-lm has other functions.
    """
    from mlx_lm import utils

    if dtype is not None:
        dtypes.checked(dtype)
    options = _Options(dtype, group, fuse)
    uninstall()
    missing = [name for name in _WRAPPERS if not callable(getattr(utils, name, None))]
    if missing:
        raise FormatError(f"mlx_lm.utils: found no {', '.join(missing)}, expected what mlx-lm 0.31 to 0.32 have")
    teach_mlx_lm()
    for name, wrapper in _WRAPPERS.items():
        stock = getattr(utils, name)
        ours = wraps(stock)(wrapper(stock, options))
        _replaced[name] = (stock, ours)
        rebind((stock, ours))


def uninstall() -> None:
    """Undoes `install`; nothing without it."""
    while _replaced:
        stock, ours = _replaced.popitem()[1]
        rebind((ours, stock))


def installed() -> bool:
    """Whether `install` is in force."""
    return bool(_replaced)


def _download(stock: Callable[..., Path], chosen: _Options) -> Callable[..., Path]:
    def find(
        path_or_hf_repo: str | Path, revision: str | None = None, allow_patterns: Sequence[str] | None = None
    ) -> Path:
        path = Path(path_or_hf_repo)
        if path.exists():
            return source.only_gguf(path)
        return source.download(str(path_or_hf_repo), revision, allow_patterns)

    return find


def _hf_repo_to_path(stock: Callable[..., Path], chosen: _Options) -> Callable[..., Path]:
    return lambda hf_repo: stock(source.split(hf_repo)[0])


def _create_model_card(stock: Callable[..., None], chosen: _Options) -> Callable[..., None]:
    return lambda path, hf_path: stock(path, hf_path and source.split(str(hf_path))[0])


def _load_model(stock: Callable[..., Any], chosen: _Options) -> Callable[..., tuple[nn.Module, dict[str, Any]]]:
    def load(
        model_path: Path,
        lazy: bool = False,
        strict: bool = True,
        model_config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> tuple[nn.Module, dict[str, Any]]:
        path = source.only_gguf(Path(model_path))
        if not source.is_ours(path):
            return stock(model_path, lazy=lazy, strict=strict, model_config=model_config, **options)
        if "get_model_classes" in options:
            raise FormatError(f"{path.name}: get_model_classes: found one, expected none with packed weights")
        return load_model(opened(path), chosen.dtype, model_config, group=chosen.group, fuse=chosen.fuse)

    return load


def _load_tokenizer(stock: Callable[..., Any], chosen: _Options) -> Callable[..., Any]:
    def load(model_path: Any, tokenizer_config_extra: Any = None, eos_token_ids: Any = None) -> Any:
        from mlx_lm import utils

        patterns = [pattern for pattern in utils.DEFAULT_ALLOW_PATTERNS if "safetensors" not in pattern]
        path = utils._download(model_path, allow_patterns=patterns)
        if path.is_dir():
            if not source.is_ours(path):
                return stock(path, tokenizer_config_extra, eos_token_ids=eos_token_ids)
            with of_folder(path):
                return keep_all(stock(path, tokenizer_config_extra, eos_token_ids=eos_token_ids))
        return load_tokenizer(GGUFFile(path), tokenizer_config_extra, eos_token_ids)

    return load


def _sharded_load(stock: Callable[..., Any], chosen: _Options) -> Callable[..., Any]:
    def load(
        repo: str | Path,
        pipeline_group: Group = None,
        tensor_group: Group = None,
        return_config: bool = False,
        *,
        tokenizer_config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        from mlx_lm import utils

        name: Any = repo
        patterns = [pattern for pattern in utils.DEFAULT_ALLOW_PATTERNS if "safetensors" not in pattern]
        if not source.is_ours(utils._download(name, allow_patterns=patterns)):
            return stock(
                repo, pipeline_group, tensor_group, return_config, tokenizer_config=tokenizer_config, **options
            )
        if pipeline_group is not None:
            raise FormatError("pipeline_group: found one, expected a tensor_group: packed layers are cut")
        path = utils._download(name)
        whole = tensor_group or mx.distributed.init()
        model, config = load_model(opened(path), chosen.dtype, group=whole)
        tokenizer = utils.load_tokenizer(path, tokenizer_config, eos_token_ids=config.get("eos_token_id"))
        # Others may read for longer than a first message may take.
        mx.eval(mx.distributed.all_sum(mx.array(1.0), group=whole, stream=mx.cpu))
        return (model, tokenizer, config) if return_config else (model, tokenizer)

    return load


_WRAPPERS: dict[str, Callable[..., Any]] = {
    "_download": _download,
    "hf_repo_to_path": _hf_repo_to_path,
    "create_model_card": _create_model_card,
    "load_model": _load_model,
    "load_tokenizer": _load_tokenizer,
    "sharded_load": _sharded_load,
}
