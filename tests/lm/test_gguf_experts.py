"""Mixtures of experts from GGUF files, against transformers with the same weights unpacked."""

from __future__ import annotations

from unittest.mock import patch

import gguf
import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.nn import PackedSwitchLinear

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

import lm_gguf_experts  # noqa: E402
from lm_experts import mixture  # noqa: E402
from lm_gguf_experts import FILES, write_mixture  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
QUICK = ("qwen3moe", "qwen3moe, gates and ups joined", "mixtral, a tensor for each expert")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FILES]
)
def test_a_mixture_computes_what_transformers_does(name, tmp_path):
    theirs = mixture(FILES[name][0])
    write_mixture(tmp_path / "model.gguf", name, theirs)
    ours, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    found = np.array(ours(mx.array(IDS)))
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max()
    stacks = [layer for _, layer in ours.named_modules() if isinstance(layer, PackedSwitchLinear)]
    assert len(stacks) == 3 * (3 - theirs.config.to_dict().get("first_k_dense_replace", 0))


REFUSED = [
    ({"expert_used_count": 9}, r"qwen3moe.expert_used_count: found 9, expected at most 8 \(the experts\)"),
    ({"expert_gating_func": 2}, r"qwen3moe.expert_gating_func: found 2, expected 1 \(in a qwen3_moe\)"),
    ({"expert_weights_norm": False}, r"qwen3moe.expert_weights_norm: found False, expected True \(in a qwen3_moe\)"),
    ({"expert_weights_scale": 2.5}, r"qwen3moe.expert_weights_scale: found 2.5, expected 1.0 \(in a qwen3_moe\)"),
    ({"expert_group_count": 4}, r"qwen3moe.expert_group_count: found 4, expected 1 \(in a qwen3_moe\)"),
    ({"expert_count": 0}, r"qwen3moe.expert_count: found 0, expected a positive integer"),
    ({"expert_feed_forward_length": 32}, r"found a weight of \(8, 64, 64\), expected \(8, 32, 64\)"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[next(iter(keys)) for keys, _ in REFUSED])
def test_what_is_refused(keys, message, tmp_path):
    write_mixture(tmp_path / "model.gguf", "qwen3moe", mixture("qwen3_moe"), **keys)
    with pytest.raises(mxd.FormatError, match=message):
        mxd.lm.load(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("blk.1.ffn_gate.3.weight", "blk.1.ffn_gate.3.weight"),
        ("blk.1.ffn_gate.2.weight", "blk.1.ffn_gate.2.weight"),
        ("blk.1.ffn_gate.0.weight", "blk.1.ffn_gate_exps.weight"),
    ],
)
def test_an_expert_is_missing(missing, named, tmp_path):
    with patch.object(lm_gguf_experts, "encoded", without(missing)):
        write_mixture(tmp_path / "model.gguf", "mixtral, a tensor for each expert", mixture("mixtral"))
    with pytest.raises(mxd.FormatError, match=f"tensor '{named}': not found"):
        mxd.lm.load(tmp_path / "model.gguf")


def test_experts_of_two_types(tmp_path):
    with patch.object(lm_gguf_experts, "encoded", with_q4_0("blk.0.ffn_up.2.weight")):
        write_mixture(tmp_path / "model.gguf", "mixtral, a tensor for each expert", mixture("mixtral"))
    message = r"tensors 'blk.0.ffn_up.0.weight' to 'blk.0.ffn_up.3.weight': weights\[2\]: found Q4_0 .*expected Q8_0"
    with pytest.raises(mxd.FormatError, match=message):
        mxd.lm.load(tmp_path / "model.gguf")


def without(missing):
    encoded = lm_gguf_experts.encoded
    return lambda *model: (tensor for tensor in encoded(*model) if tensor[0] != missing)


def with_q4_0(changed):
    encoded, kind = lm_gguf_experts.encoded, gguf.GGMLQuantizationType.Q4_0

    def tensors(*model):
        for name, data, raw in encoded(*model):
            again = name == changed
            yield (
                (name, gguf.quants.quantize(gguf.quants.dequantize(data, raw), kind), kind)
                if again
                else (name, data, raw)
            )

    return tensors


def test_a_router_that_adds_biases_keeps_them_in_float32(tmp_path):
    theirs = mixture("glm4_moe")
    write_mixture(tmp_path / "model.gguf", "glm4moe", theirs)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.bfloat16)
    bias = model.layers[1].mlp.gate.e_score_correction_bias
    assert bias.dtype == mx.float32
    assert np.array_equal(np.array(bias), theirs.model.layers[1].mlp.gate.e_score_correction_bias.numpy())


def test_convert_keeps_stacks_packed(tmp_path):
    write_mixture(tmp_path / "model.gguf", "qwen3moe", mixture("qwen3_moe"))
    rows = mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "packed")
    assert ("model.layers.0.mlp.switch_mlp.up_proj", "Q8_0") in {(row.name, row.source) for row in rows}
    before, after = (mxd.lm.load(tmp_path / name, dtype=mx.float32)[0] for name in ("model.gguf", "packed"))
    assert mx.array_equal(before(mx.array(IDS)), after(mx.array(IDS)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "qwen3moe" else pytest.mark.full) for name in FILES]
)
def test_mlx_lm_alone_opens_a_converted_mixture(name, tmp_path):
    write_mixture(tmp_path / "model.gguf", name, mixture(FILES[name][0]))
    rows = mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "mlx", to="mlx")
    stacks = {(row.target, row.error) for row in rows if "experts" in row.name or "switch" in row.name}
    assert stacks == {("mxfp4 4-bit, groups of 32" if name == "gpt-oss" else "affine 8-bit, groups of 32", 0.0)}
    model = mlx_lm.load(str(tmp_path / "mlx"))[0]
    model.set_dtype(mx.float32)
    expected = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)[0](mx.array(IDS))
    assert mx.abs(model(mx.array(IDS)) - expected).max() < 3e-2 * mx.abs(expected).max()
