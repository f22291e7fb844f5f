"""What is done to tensors before mlx-lm's models rename them."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_dequant as mxd
from mlx_dequant.lm.tensors import PLACEHOLDER, is_unused, prepared


def test_vectors_are_float32():
    """Some models add 1 to their norms."""
    found = prepared(
        "llama", {"a": mx.ones(2, mx.bfloat16), "b": mx.ones((2, 2), mx.bfloat16), "c": mx.ones(2, mx.int8)}
    )
    assert {name: array.dtype for name, array in found.items()} == {"a": mx.float32, "b": mx.bfloat16, "c": mx.int8}


def test_gemma3_names_since_transformers_4_52():
    stored = {
        "model.language_model.layers.0.mlp.up_proj.weight": mx.array(0),
        "lm_head.weight": mx.array(1),
        "model.vision_tower.x": mx.array(2),
        "model.multi_modal_projector.y": mx.array(3),
    }
    assert {name: array.item() for name, array in prepared("gemma3", stored).items()} == {
        "language_model.model.layers.0.mlp.up_proj.weight": 0,
        "language_model.lm_head.weight": 1,
        "vision_tower.x": 2,
        "multi_modal_projector.y": 3,
    }
    before = {"language_model.model.norm.weight": mx.array(0)}
    assert prepared("gemma3", before).keys() == before.keys()


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_vl_moe"])
def test_experts_one_by_one_are_stacked_in_order(kind):
    place = "model.language_model.layers.3.mlp"
    stored = {
        f"{place}.experts.{number}.up_proj.weight": mx.full((1, 1), number) for number in (10, 2, 0, 1, *range(3, 10))
    }
    found = prepared(kind, stored | {f"{place}.gate.weight": mx.array(0)})
    assert found.keys() == {f"{place}.switch_mlp.up_proj.weight", f"{place}.gate.weight"}
    assert found[f"{place}.switch_mlp.up_proj.weight"].reshape(-1).tolist() == list(range(11))


def test_a_router_bias_that_mlx_lm_drops_is_refused():
    name = "model.layers.1.mlp.moe_statics.e_score_correction_bias"
    assert prepared("ernie4_5_moe", {name: mx.zeros((1, 4))}).keys() == {name}
    with pytest.raises(mxd.FormatError, match=f"{name}: found numbers, expected zeros"):
        prepared("ernie4_5_moe", {name: mx.ones((1, 4))})


def test_a_packed_output_layer_is_no_copy_of_a_packed_embedding():
    """What stands for both while names change is equal, and says nothing of their weights."""
    packed = mx.zeros((4, 2), PLACEHOLDER)
    dense = mx.ones((4, 2))
    assert not is_unused("lm_head.weight", {"lm_head.weight": packed, "model.embed_tokens.weight": packed})
    assert not is_unused("lm_head.weight", {"lm_head.weight": dense, "model.embed_tokens.weight": dense + 1})
    assert is_unused("lm_head.weight", {"lm_head.weight": dense, "model.embed_tokens.weight": dense})
