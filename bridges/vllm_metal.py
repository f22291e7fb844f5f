"""vllm-metal, which runs vLLM on Macs by MLX: a tensor for its GGUF layers, and a loader for its GPTQ folders.

    from vllm_metal.gguf.wrappers import GGUFLinear
    layer = GGUFLinear(vllm_metal.Tensor(weight))        # every GGUF type; its own tensors have Q8_0, Q4_0 and Q4_1

    vllm_metal.install()                                 # before vLLM starts: GPTQ folders load, packed

`Tensor` has the members of `vllm_metal.gguf.tensor.GGUFTensor`, a protocol. Made for vllm-metal 0.3; nothing here
imports torch, or vllm-metal before `install`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import FormatError
from ..weights import QuantizedWeight

METHODS = ("gptq",)  # of quantization_config, which vllm-metal refuses

_own: list[tuple[Any, Any]] = []


@dataclass(frozen=True, eq=False)
class Tensor:
    """A quantized matrix as vllm-metal's `GGUFTensor`.

    Attributes:
        weight: [out, in], of any format.
    """

    weight: QuantizedWeight

    def __post_init__(self) -> None:
        if len(self.weight.shape) != 2:
            raise FormatError(f"weight: found shape {self.weight.shape}, expected a matrix")

    @property
    def out_features(self) -> int:
        return self.weight.out_features

    @property
    def in_features(self) -> int:
        return self.weight.in_features

    def matmul(self, x: mx.array) -> mx.array:
        """x [..., in] to [..., out] in x's type, by the packed weight."""
        return self.weight.linear(x)

    def embedding(self, ids: mx.array, output_dtype: mx.Dtype) -> mx.array:
        """Rows `ids`: [*ids.shape, in] in `output_dtype`."""
        return self.weight.take(ids, output_dtype)

    def eval_arrays(self) -> None:
        """Reads the weight's arrays, which may be lazy."""
        mx.eval([array for array in self.weight.arrays.values() if array is not None])


class FolderLoader:
    """A loader of a folder, as vllm-metal's `AWQQuantLoader` is one."""

    def load(
        self, model_path: str, *, target_dtype: mx.Dtype, tokenizer_config: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """mlx-lm's model, its linear layers packed and the rest in `target_dtype`, and mlx-lm's tokenizer.

        Args:
            tokenizer_config: as mlx-lm's own loader takes it.

        Raises:
            FormatError: as for `mlx_dequant.lm.load`.
        """
        from ..lm.load import load_model, load_tokenizer  # it needs mlx-lm

        path = Path(model_path)
        model, config = load_model(path, target_dtype)
        return model, load_tokenizer(path, tokenizer_config, config.get("eos_token_id"))


def install() -> None:
    """Makes vllm-metal load local folders of GPTQ, which it refuses by itself.

    Raises:
        ImportError: there is no vllm-metal, or its loader of AWQ is not that of 0.3.
    """
    if _own:
        return
    try:
        from vllm_metal.quant.awq_loader import AWQQuantLoader  # pyright: ignore[reportMissingImports]

        theirs = AWQQuantLoader.for_model
        kept = vars(AWQQuantLoader)["for_model"]
    except (ImportError, AttributeError, KeyError) as error:
        raise ImportError(f"found no AWQQuantLoader.for_model ({error}), expected that of vllm-metal 0.3") from error

    def for_model(model_name: str) -> Any:
        return FolderLoader() if method(model_name) in METHODS else theirs(model_name)

    AWQQuantLoader.for_model = staticmethod(for_model)
    _own.append((AWQQuantLoader, kept))


def uninstall() -> None:
    """Undoes `install`."""
    while _own:
        loader, kept = _own.pop()
        loader.for_model = kept


def method(model_name: str) -> str:
    """The quant_method in the config.json of a local folder; "" elsewhere, which vllm-metal looks at itself."""
    try:
        config = json.loads((Path(model_name) / "config.json").read_text(encoding="utf-8"))
        return config["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
