"""A language model in plain torch, for the shapes of `models`: what a user of torch would run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import torch
from torch.nn import functional

import mlx_dequant as mxd

from .. import dtypes
from ..bridges import packed
from ..bridges.torch import to_torch
from . import random_layers, runners
from .models import NORM, Kind, group_size
from .providers import torch_devices
from .providers.torch_plain import synchronised

Linear = Callable[[torch.Tensor], torch.Tensor]
LONGEST = 4096  # tokens of a cache


class TorchModel:
    """Llama's and Qwen 3's blocks, with torch's attention and a cache that is allocated once.

    Args:
        kind: "dense", or weights that this package multiplies.
        settings: a config of `models`.
        ends: the dense embedding and output layer of mlx-lm's models.
    """

    def __init__(self, kind: Kind, settings: dict[str, Any], dtype: mx.Dtype, ends: dict[str, Any]):
        self.device, self.dtype = next(torch_devices()), getattr(torch, dtypes.name(dtype))
        self.settings, self.kind, self.mlx_dtype = settings, kind, dtype
        self.embedding = self._tensor(ends["model.embed_tokens"].weight)
        self.head = self._tensor(ends["lm_head"].weight) if "lm_head" in ends else self.embedding
        self.blocks = [self._block() for _ in range(settings["num_hidden_layers"])]
        self.vocabulary = settings["vocab_size"]
        self._angles = self._rotations()
        self._synchronise = synchronised(self.device)

    def _tensor(self, array: mx.array) -> torch.Tensor:
        return to_torch(array, self.device).clone()

    def _block(self) -> dict[str, Linear]:
        width, wide, size = (self.settings[name] for name in ("hidden_size", "intermediate_size", "head_dim"))
        heads, kv = (self.settings[name] * size for name in ("num_attention_heads", "num_key_value_heads"))
        shapes = {"q": (heads, width), "k": (kv, width), "v": (kv, width), "o": (width, heads)}
        shapes |= {"gate": (wide, width), "up": (wide, width), "down": (width, wide)}
        return {name: self._linear(*shape) for name, shape in shapes.items()}

    def _linear(self, rows: int, columns: int) -> Linear:
        if self.kind.format == "dense":
            dense = self._tensor(random_layers.dense(rows, columns, dtype=self.mlx_dtype))
            return lambda x: functional.linear(x, dense)
        size = group_size(self.settings)
        weight: mxd.QuantizedWeight = random_layers.quantized(self.kind.format, rows, columns, size)
        place = torch.empty(0, device=self.device)
        return lambda x: packed.product(x, weight, None, place)

    def _rotations(self) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.settings["head_dim"]
        frequencies = self.settings["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(LONGEST), torch.cat([frequencies, frequencies])).to(self.device)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _norm(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], eps=self.settings["rms_norm_eps"]) * scale

    def _cache(self) -> list[torch.Tensor]:
        shape = (2, 1, self.settings["num_key_value_heads"], LONGEST, self.settings["head_dim"])
        return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.blocks]

    @torch.inference_mode()
    def _scores(self, ids: torch.Tensor, cache: list[torch.Tensor], first: int) -> torch.Tensor:
        """[vocabulary] scores after the last of `ids` [count], which follow `first` tokens."""
        x = self.embedding[ids][None]
        for block, kept in zip(self.blocks, cache, strict=True):
            x = x + block["o"](self._attention(block, self._norm(x, NORM), kept, first))
            y = self._norm(x, NORM)
            x = x + block["down"](functional.silu(block["gate"](y)) * block["up"](y))
        return functional.linear(self._norm(x[0, -1]), self.head)

    def _attention(self, block: dict[str, Linear], x: torch.Tensor, kept: torch.Tensor, first: int) -> torch.Tensor:
        count, end = x.shape[1], first + x.shape[1]
        q, k, v = (block[name](x).view(1, count, -1, self.settings["head_dim"]).transpose(1, 2) for name in "qkv")
        if self.settings["model_type"] == "qwen3":
            q, k = self._norm(q), self._norm(k)
        kept[0, :, :, first:end], kept[1, :, :, first:end] = self._rotated(k, first), v
        keys, values = kept[:, :, :, :end]
        y = functional.scaled_dot_product_attention(
            self._rotated(q, first), keys, values, is_causal=count > 1, enable_gqa=True
        )
        return y.transpose(1, 2).reshape(1, count, -1)

    def _rotated(self, x: torch.Tensor, first: int) -> torch.Tensor:
        cos, sin = (part[first : first + x.shape[2]] for part in self._angles)
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    def _ids(self, count: int) -> torch.Tensor:
        return torch.tensor(runners.prompt_ids(count, self.vocabulary), device=self.device)

    def tokens(self, count: int) -> Iterator[list[int]]:
        return runners.in_turns(self._answer(), count)

    def _answer(self) -> Iterator[int]:
        cache = self._cache()
        while True:
            scores = self._scores(self._ids(runners.PROMPT), cache, 0)
            for at in range(runners.PROMPT, LONGEST):
                token = scores.argmax().reshape(1)
                yield int(token)
                scores = self._scores(token, cache, at)

    def prompt(self, count: int) -> None:
        self._scores(self._ids(count), self._cache(), 0)
        self.wait()

    def wait(self) -> None:
        self._synchronise([])

    def is_finite(self) -> bool:
        return bool(self._scores(self._ids(runners.PROMPT), self._cache(), 0).isfinite().all())
