"""Models in parts, compared with the whole model: threads stand in for processes (test_ranks.py has real ones)."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

import lm_gguf
import lm_gguf_experts
from lm_experts import as_folder, mixture
from lm_folders import write_folder
from lm_models import transformers_model, write_gguf
from lm_ranks import Rank, over_threads

from mlx_dequant.lm.load import load_model, opened
from mlx_dequant.lm.shard_layers import Part, Spread, Summed
from mlx_dequant.lm.shard_plan import MODELS, part
from mlx_dequant.loading import mapped
from mlx_dequant.nn import PackedLayer

IDS = mx.array(np.random.default_rng(0).integers(0, 288, (2, 24)))
MODELS_OF_FILES = lm_gguf_experts.FILES
NINE = {"hidden_size": 288, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 2}
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def whole(path):
    return load_model(opened(path), mx.float32)[0]


def parts(path, size, monkeypatch):
    """A model's logits, heads and bytes, by rank."""

    def work(group):
        model, _ = load_model(opened(path), mx.float32, group=group)
        attention = model.layers[0].self_attn
        heads = getattr(attention, "n_heads", None), getattr(attention, "n_kv_heads", None)
        held = sum(layer.weight.nbytes for _, layer in model.layers[0].named_modules() if isinstance(layer, Part))
        return np.array(model(IDS)), heads, held

    return over_threads(size, work, monkeypatch)


def assert_same(path, size, monkeypatch):
    expected = np.array(whole(path)(IDS))
    found = parts(path, size, monkeypatch)
    for logits, _, _ in found:
        # Sums have another order.
        assert np.abs(logits - expected).max() < 5e-5 * np.abs(expected).max()
        assert np.array_equal(logits.argmax(-1), expected.argmax(-1))
        assert np.array_equal(logits, found[0][0])
    return found


def folder(path, form, model, state=None):
    exact = {name: tensor.numpy() for name, tensor in model.state_dict().items()} if state is None else state
    if model.config.tie_word_embeddings:
        exact.pop("lm_head.weight")
    write_folder(path, form, json.loads(model.config.to_json_string()), exact)
    return path


def test_a_llama_over_two(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama tied, with biases", transformers_model("llama tied, with biases", num_hidden_layers=2))
    first, second = assert_same(path, 2, monkeypatch)
    assert first[1] == second[1] == (2, 1)


def test_heads_that_do_not_divide(tmp_path, monkeypatch):
    """Nine heads on three key-value heads are six on two, and three on one."""
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama", **NINE))
    found = assert_same(path, 2, monkeypatch)
    assert [heads for _, heads, _ in found] == [(6, 2), (3, 1)]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.full)])
def test_a_qwen3_with_act_order(size, tmp_path, monkeypatch):
    """Over four, two processes each have the same key-value head."""
    path = folder(tmp_path / "model", "gptq act-order", transformers_model("qwen3", **WIDE))
    found = assert_same(path, size, monkeypatch)
    assert [heads for _, heads, _ in found] == [(4 // size, 2 // size or 1)] * size


@pytest.mark.parametrize("form", ["gptq", pytest.param("gptq act-order", marks=pytest.mark.full)])
def test_a_mixture_of_experts(form, tmp_path, monkeypatch):
    model = mixture("qwen3_moe", hidden_size=128, num_hidden_layers=2)
    path = folder(tmp_path / "model", form, model, as_folder("qwen3_moe", model.state_dict()))
    assert_same(path, 2, monkeypatch)


@pytest.mark.parametrize(
    "form",
    ["gptq act-order", "mlx-dequant"]
    + [pytest.param(form, marks=pytest.mark.full) for form in ("gptq", "awq", "compressed-tensors asymmetric")],
)
def test_bytes_that_a_process_reads(form, tmp_path):
    """Half of each layer's, but for the groups of a layer with act-order, of which each process has all."""
    path = folder(tmp_path / "model", "gptq" if form == "mlx-dequant" else form, transformers_model("qwen3", **WIDE))
    if form == "mlx-dequant":
        model, config = load_model(opened(path), mx.float32)
        path = tmp_path / "packed"
        path.mkdir()
        model.save_weights(str(path / "model.safetensors"))
        (path / "config.json").write_text(json.dumps(config))
    read = []
    for size in (1, 2):
        before = mapped.bytes_read()
        model, _ = load_model(opened(path), mx.float32, group=Rank(0, [None] * size))
        read.append(mapped.bytes_read() - before)
        layers = [layer for layer in model.layers[0].modules() if isinstance(layer, PackedLayer)]
        held = sum(layer.weight.nbytes for layer in layers) * len(model.layers)
        rest = read[-1] - held
        assert 0 <= rest < 160_000  # the embedding, norms, and a g_idx that is read and says nothing
        assert len(layers) == 7
    assert read[0] - read[1] > (0.35 if "act" in form else 0.42) * (read[0] - rest)


def test_mlx_lms_own_shard(tmp_path, monkeypatch):
    path = folder(tmp_path / "model", "gptq act-order", transformers_model("qwen3", **WIDE))
    expected = np.array(whole(path)(IDS))

    def work(group):
        model = whole(path)
        model.shard(group)
        assert isinstance(model.layers[0].self_attn.q_proj, Spread)
        assert isinstance(model.layers[1].mlp.down_proj, Summed)
        return np.array(model(IDS))

    for logits in over_threads(2, work, monkeypatch):
        assert np.abs(logits - expected).max() < 5e-5 * np.abs(expected).max()


@pytest.mark.full
def test_our_shard_of_a_whole_model(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama", **NINE))
    expected = np.array(whole(path)(IDS))

    def work(group):
        return np.array(mxd.lm.shard(whole(path), group)(IDS))

    for logits in over_threads(2, work, monkeypatch):
        assert np.abs(logits - expected).max() < 5e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    path = tmp_path_factory.mktemp("uneven") / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama", **NINE | {"num_hidden_layers": 1, "intermediate_size": 320}))
    return path


def test_what_mlx_lms_own_shard_refuses(uneven):
    model = whole(uneven)
    with pytest.raises(mxd.FormatError, match=r"GGUFWeight\(Q8_0, .* found 288 rows, expected a multiple of 7, .*load"):
        model.shard(Rank(0, [None] * 7))
    with pytest.raises(mxd.FormatError, match=r"columns: found 0 to 144 of 288, expected multiples of 32 \(Q8_0"):
        model.shard(Rank(0, [None] * 2))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (11, r"layers.0.mlp: found 320 inner rows, cut by multiples of 32, expected a part for each of 11 processes"),
        (
            10,
            r"layers.0.self_attn: found 3 key-value heads, each for 3 query heads of 32 rows, .* each of 10 processes",
        ),
    ],
)
def test_more_processes_than_parts(size, message, uneven):
    with pytest.raises(mxd.FormatError, match=message):
        load_model(opened(uneven), group=Rank(0, [None] * size))


def test_a_model_that_is_not_known_in_parts(tmp_path):
    lm_gguf.write_gguf(tmp_path / "model.gguf", "olmo2", lm_gguf.transformers_model("olmo2"))
    with pytest.raises(mxd.FormatError, match=r"model_type: found 'olmo2', expected one of llama, .* over 2 processes"):
        load_model(opened(tmp_path / "model.gguf"), group=Rank(0, [None] * 2))


def test_a_module_that_is_not_known(uneven, monkeypatch):
    from mlx_lm.models import llama

    stock = llama.TransformerBlock.__init__

    def init(self, args, use_sliding=False):
        stock(self, args, use_sliding)
        self.gate_of_all = nn.Linear(8, 8)

    monkeypatch.setattr(llama.TransformerBlock, "__init__", init)
    with pytest.raises(mxd.FormatError, match=r"layers.0.gate_of_all: found bias \(8,\), weight \(8, 8\), of which"):
        load_model(opened(uneven), group=Rank(0, [None] * 2))


def test_a_part_is_no_whole_layer(uneven):
    model, _ = load_model(opened(uneven), group=Rank(1, [None] * 2))
    layer = model.layers[0].self_attn.q_proj
    assert layer.weight.shape == (96, 288)
    assert isinstance(layer.unpacked(), Spread)
    for use, what in ((layer.to_lora, "an adapter"), (layer.to_quantized, "MLX's own quantization")):
        with pytest.raises(mxd.FormatError, match=f"SpreadPackedLinear: found a part of a layer, .* for {what}"):
            use()
    with pytest.raises(mxd.FormatError, match="shard_linear: found SpreadPackedLinear, expected a whole PackedLinear"):
        model.shard(Rank(1, [None] * 2))


def test_parts_of_a_number():
    assert [part(3, 1, 2, rank) for rank in range(2)] == [(0, 2), (2, 3)]
    assert [part(1000, 256, 3, rank) for rank in range(3)] == [(0, 512), (512, 768), (768, 1000)]


FILES = [name for name, (kind, *_) in lm_gguf.FILES.items() if kind in MODELS]


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_architectures(name, tmp_path, monkeypatch):
    # Not Q6_K: 256 inputs are a single block.
    monkeypatch.setattr(lm_gguf, "TYPES", [kind for kind in lm_gguf.TYPES if kind != "Q6_K"])
    lm_gguf.write_gguf(tmp_path / "model.gguf", name, lm_gguf.transformers_model(name))
    assert_same(tmp_path / "model.gguf", 2, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name, (kind, *_) in MODELS_OF_FILES.items() if kind in MODELS])
def test_mixtures(name, tmp_path, monkeypatch):
    lm_gguf_experts.write_mixture(tmp_path / "model.gguf", name, mixture(lm_gguf_experts.FILES[name][0]))
    assert_same(tmp_path / "model.gguf", 2, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral", "gemma3", "llama 3.1"])
def test_small_models(name, tmp_path, monkeypatch):
    write_gguf(tmp_path / "model.gguf", name, transformers_model(name))
    assert_same(tmp_path / "model.gguf", 2, monkeypatch)


def test_every_model_of_the_table_is_run_in_parts():
    run = {lm_gguf.FILES[name][0] for name in FILES} | {kind for kind, *_ in MODELS_OF_FILES.values()}
    assert run | {"qwen2", "qwen3", "mistral", "gemma3_text", "llama"} >= set(MODELS)
