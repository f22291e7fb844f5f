"""GGUF files of gated delta nets, latent attention and others: logits against transformers with the same weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_gguf_families import FILES  # noqa: E402
from lm_gguf_parts import model_of, write_family  # noqa: E402
from lm_models import VOCABULARY, difference  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 40))
QUICK = ("qwen35",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in FILES]
)
def test_an_architecture_computes_what_transformers_does(name, tmp_path):
    from mlx_lm.models.cache import make_prompt_cache

    theirs = model_of(name)
    write_family(tmp_path / "model.gguf", name, theirs)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    theirs.set_experts_implementation("eager")
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(IDS)).logits.numpy()
    if name.startswith("gemma"):  # whose last layers use keys of others
        assert difference(np.array(model(mx.array(IDS))), expected) < 5e-5
    cache = make_prompt_cache(model)
    parts = [model(mx.array(IDS[:, a:b]), cache=cache) for a, b in ((0, 30), (30, 39), (39, 40))]
    assert difference(np.concatenate([np.array(part) for part in parts], axis=1), expected) < 5e-5


@pytest.mark.full
@pytest.mark.parametrize("name", ["deepseek2, V3", "qwen35", "qwen35moe", "falcon-h1", "gemma3n", "gemma4, experts"])
def test_a_packed_folder_computes_the_same(name, tmp_path):
    """The settings that are written are read back."""
    write_family(tmp_path / "model.gguf", name, model_of(name))
    mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "folder")
    found, expected = (
        mxd.lm.load(tmp_path / path, dtype=mx.float32)[0](mx.array(IDS)) for path in ("folder", "model.gguf")
    )
    assert np.array_equal(np.array(found), np.array(expected))


@pytest.mark.full
def test_mlx_lms_own_model_gets_heads_in_its_order(tmp_path):
    import mlx_lm

    theirs = model_of("qwen35")
    write_family(tmp_path / "model.gguf", "qwen35", theirs)
    rows = {row.name: row for row in mxd.lm.convert(tmp_path / "model.gguf", tmp_path / "folder", to="mlx")}
    layers = [rows[f"language_model.model.layers.{layer}.linear_attn.out_proj"] for layer in (0, 2)]
    assert [(layer.source, layer.target) for layer in layers] == [
        ("Q6_K", "float16"),
        ("Q8_0", "affine 8-bit, groups of 32"),
    ]
    stock, _ = mlx_lm.load(str(tmp_path / "folder"))
    exact = [theirs.model.layers[layer].linear_attn.out_proj.weight.detach().numpy() for layer in (0, 2)]
    rounded, coded = (stock.layers[layer].linear_attn.out_proj for layer in (0, 2))
    assert np.array_equal(np.array(rounded.weight), exact[0].astype(np.float16))
    parts = (coded.weight, coded.scales.astype(mx.float32), coded.biases.astype(mx.float32))
    assert np.array_equal(np.array(mx.dequantize(*parts, group_size=32, bits=8)), exact[1])
    expected = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)[0](mx.array(IDS))
    stock.set_dtype(mx.float32)
    assert difference(np.array(stock(mx.array(IDS))), np.array(expected)) < 2e-2  # other weights are float16


REFUSED = [
    ("qwen35", {"full_attention_interval": 4}, r"qwen35.attention.recurrent_layers: found 4 values, expected all but"),
    ("qwen35", {"ssm.inner_size": 100}, r"qwen35.ssm.inner_size: found 100, expected a multiple of 6"),
    ("deepseek2, V2", {"expert_weights_norm": True}, r"expert_weights_norm: found True, expected False"),
    ("deepseek2, V2", {"expert_group_used_count": 5}, r"found 5, expected at most 1 \(the groups\)"),
    ("deepseek2, V3", {"rope.dimension_count": 48}, r"rope.dimension_count: found 48, expected less than 48"),
    ("falcon-h1, norm", {"ssm.group_count": 2}, r"ssm.group_count: found 2, expected 1 in a model with ssm_norm"),
    (
        "gemma4, experts",
        {"attention.head_count_kv": [2, 1, 1, 1]},
        r"head_count_kv: found 2 values, expected one number",
    ),
    ("gemma4, experts", {"attention.key_length_swa": 16}, r"attention.value_length_swa: found 32, expected 16"),
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "keys", "message"), REFUSED, ids=[f"{name}: {next(iter(keys))}" for name, keys, _ in REFUSED]
)
def test_what_is_refused(name, keys, message, tmp_path):
    more = {"attention.recurrent_layers": [True, False, True, False]} if name == "qwen35" else {}
    write_family(tmp_path / "model.gguf", name, model_of(name), **more, **keys)
    with pytest.raises(mxd.FormatError, match=message):
        mxd.lm.load(tmp_path / "model.gguf")
