"""Gated delta nets of GGUF files: Qwen3-Next and Qwen3.5. mlx-lm has them in its Qwen3.5 models.

Where a file's keys have fewer heads than its values, heads of values come in another order than in transformers: the
first value of each key, then the second of each ("tiled"). Rows are moved back here, packed. The inputs of the output
layer stay as they are, since a block may hold parts of two heads: `variants` reorders what it gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..weights import GGUFWeight
from .build import Weight
from .gguf_joined import Tensors, picked
from .gguf_keys import Keys
from .variants import TILED

Rows = NDArray[np.int64]
INTERVAL = 4  # llama.cpp's default


def settings(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    """The same for both, in the order of transformers: Qwen3-Next."""
    blocks = result["num_hidden_layers"]
    layers = blocks - keys.get("nextn_predict_layers", 0)
    every = keys.get("full_attention_interval", INTERVAL)
    pattern = [bool((layer + 1) % every) for layer in range(layers)]
    recurrent = keys.layers("attention.recurrent_layers", blocks)
    if recurrent is not None and [bool(each) for each in recurrent[:layers]] != pattern:
        raise keys.fail("attention.recurrent_layers", recurrent, f"all but each {every}th layer")
    values, inner = keys.need("ssm.time_step_rank"), keys.need("ssm.inner_size")
    if inner % values:
        raise keys.fail("ssm.inner_size", inner, f"a multiple of {values} (the heads of values)")
    return {
        "num_hidden_layers": layers,
        "full_attention_interval": every,
        "linear_num_value_heads": values,
        "linear_num_key_heads": keys.need("ssm.group_count"),
        "linear_key_head_dim": keys.need("ssm.state_size"),
        "linear_value_head_dim": inner // values,
        "linear_conv_kernel_dim": keys.need("ssm.conv_kernel"),
        "rope_parameters": {"partial_rotary_factor": 1.0, **result["rope_parameters"]},
    }


def tiled_settings(keys: Keys, result: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen3.5, whose converter tiles the heads of values."""
    own = settings(keys, result)
    return own | {TILED: own["linear_num_value_heads"] != own["linear_num_key_heads"]}


def tensor(parameter: str, tensors: Tensors, config: Mapping[str, Any]) -> Weight | None:
    """A parameter of a gated delta net; None for any other."""
    layer, _, part = parameter.partition(".linear_attn.")
    if not part:
        return None
    net = _Net(tensors, f"blk.{layer.rsplit('.', 1)[1]}.", config)
    if part in ("in_proj_qkv.weight", "in_proj_z.weight"):
        return net.projection(part == "in_proj_z.weight")
    if part in ("in_proj_b.weight", "in_proj_a.weight"):
        return net.gate(part == "in_proj_a.weight")
    if part == "conv1d.weight":
        return net.array("ssm_conv1d.weight")[mx.array(net.channels())][..., None]
    if part == "A_log":
        return mx.log(-net.array("ssm_a"))[mx.array(net.rows(1))]
    if part == "dt_bias":
        return net.array("ssm_dt.bias")[mx.array(net.rows(1))]
    return tensors(net.layer + {"norm.weight": "ssm_norm.weight", "out_proj.weight": "ssm_out.weight"}[part])


def untiled(inputs: mx.array, config: Mapping[str, Any]) -> mx.array:
    """What an output layer has [out, n] for its inputs, or for groups of them, in the order of transformers."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    heads = inputs.reshape(len(inputs), values // keys, keys, -1)
    return heads.swapaxes(1, 2).reshape(inputs.shape)


class _Net:
    """The tensors of a layer."""

    def __init__(self, tensors: Tensors, layer: str, config: Mapping[str, Any]):
        self.tensors, self.layer = tensors, layer
        self.keys, self.values = config["linear_num_key_heads"], config["linear_num_value_heads"]
        self.key_dim, self.value_dim = config["linear_key_head_dim"], config["linear_value_head_dim"]
        self.tiled = bool(config.get(TILED))

    def array(self, name: str) -> mx.array:
        return self.tensors(self.layer + name).dequantize(mx.float32).squeeze()

    def rows(self, length: int) -> Rows:
        """Where the heads of values stand in the file, `length` rows each."""
        share, rows = self.values // self.keys, np.arange(self.values * length)
        return rows.reshape(share, self.keys, length).swapaxes(0, 1).reshape(-1) if self.tiled else rows

    def channels(self) -> Rows:
        """The same for queries, keys and values."""
        before = 2 * self.keys * self.key_dim
        return np.concatenate([np.arange(before), before + self.rows(self.value_dim)])

    def projection(self, gates: bool) -> GGUFWeight:
        joined = f"{self.layer}ssm_in.weight"
        if joined in self.tensors:
            return picked(self.tensors(joined), self._grouped(gates))
        if gates:
            return picked(self.tensors(f"{self.layer}attn_gate.weight"), self.rows(self.value_dim))
        return picked(self.tensors(f"{self.layer}attn_qkv.weight"), self.channels())

    def gate(self, decay: bool) -> GGUFWeight:
        joined = f"{self.layer}ssm_ba.weight"
        if joined not in self.tensors:
            name = "ssm_alpha" if decay else "ssm_beta"
            return picked(self.tensors(f"{self.layer}{name}.weight"), self.rows(1))
        # For each head of keys, both of all its values.
        rows = np.arange(2 * self.values).reshape(self.keys, 2, -1)
        return picked(self.tensors(joined), rows[:, int(decay)].reshape(-1))

    def _grouped(self, gates: bool) -> Rows:
        """Rows of the tensor of older files: for each head of keys its query, key, values and gates."""
        values = self.values // self.keys * self.value_dim
        length = 2 * (self.key_dim + values)
        rows = np.arange(self.keys * length).reshape(self.keys, length)
        ends = np.cumsum([self.key_dim, self.key_dim, values])
        parts = np.split(rows, ends, axis=1)
        return np.concatenate([part.reshape(-1) for part in (parts[3:] if gates else parts[:3])])
