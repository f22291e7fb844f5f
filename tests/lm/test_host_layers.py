"""Models on a CPU: what lies between products is the host's own nodes in a loaded model, and nowhere else."""

import copy
import io
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

import mlx_dequant as mxd
from mlx_dequant.backends import host as backend

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from lm_models import transformers_model, write_gguf
from mlx_lm.models import gemma3_text, llama, qwen3, rope_utils
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_dequant.lm.host_layers import use_host_layers
from mlx_dequant.lm.load import load_model, opened

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 32}
SIZES |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 50, "rope_theta": 1e4}
LLAMA3 = {"type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}
# A module, its arguments, and our nodes in a block besides its two ropes and its attention.
MODELS = {
    "llama": (llama, {"rope_scaling": LLAMA3}, 2 + 1),
    "qwen3": (qwen3, {"max_position_embeddings": 64, "tie_word_embeddings": True}, 4 + 1),
    "gemma3_text": (gemma3_text, {"sliding_window": 8, "sliding_window_pattern": 2}, 6),
}
IDS = mx.array(np.random.default_rng(0).integers(0, 50, (2, 24)))


@pytest.fixture(autouse=True)
def lazy(host):
    if not backend.is_lazy():
        pytest.skip("the log says why: MLX_DEQUANT_LOG=warning")


def model_of(name, dtype=mx.float32):
    module, others, _ = MODELS[name]
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **SIZES, **others}))
    noisy = tree_map(lambda array: (array + 0.1 * mx.random.normal(array.shape)).astype(dtype), model.parameters())
    return model.update(noisy)


def hosted(model):
    use_host_layers(model)
    return model


def answers(model):
    """Scores of a prompt, of a second one after it, and of a token."""
    cache = make_prompt_cache(model)
    return [model(IDS[:, part], cache=cache) for part in (slice(0, 15), slice(15, 23), slice(23, 24))]


def our_nodes(array):
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return text.getvalue().count('"MLXDequantLayer"')


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_scores(name):
    stock, model = model_of(name), hosted(model_of(name))
    expected, found = answers(stock), answers(model)
    assert our_nodes(found[0]) == 2 * (3 + MODELS[name][2]) + 1
    assert our_nodes(expected[0]) == 0
    assert_same(found, expected)


def test_a_loaded_model(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))

    def load(dtype=None):
        return load_model(opened(tmp_path / "model.gguf"), dtype)[0]

    model = load()
    assert our_nodes(model(IDS)) > 10
    assert our_nodes(load(mx.float16)(IDS)) == 0
    with mxd.use_backend("reference"):
        assert our_nodes(model(IDS)) == our_nodes(load()(IDS)) == 0


def test_the_same_parameters_and_classes(tmp_path):
    stock, model = model_of("llama"), hosted(model_of("llama"))
    names = ([name for name, _ in tree_flatten(each.parameters())] for each in (stock, model))
    assert next(names) == next(names)
    block = model.layers[0]
    assert isinstance(block.self_attn, llama.Attention) and isinstance(block.input_layernorm, nn.RMSNorm)
    assert type(block.self_attn.rope).__qualname__ == "Llama3RoPE" and type(block) is llama.TransformerBlock
    assert isinstance(block.self_attn.rope, rope_utils.Llama3RoPE)
    assert repr(model) == repr(stock)
    expected = answers(stock)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.layers[0].self_attn) is type(block.self_attn)
        assert_same(answers(other), expected)
    model.save_weights(str(tmp_path / "model.safetensors"))
    stock.load_weights(str(tmp_path / "model.safetensors"))
    assert_same(answers(hosted(hosted(stock))), expected)  # twice changes nothing


def test_gradients_and_adapters():
    def loss(model):
        return nn.losses.cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).mean()

    stock, model = model_of("llama"), hosted(model_of("llama"))
    for each in (stock, model):
        mx.random.seed(1)
        each.freeze()
        linear_to_lora_layers(each, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0})
        each.update(tree_map(lambda array: array + 0.1, each.trainable_parameters()))
    expected, found = (nn.value_and_grad(each, loss)(each) for each in (stock, model))
    assert found[1] and all(same for _, same in tree_flatten(tree_map(mx.allclose, found, expected)))


def test_functions_of_mlx_stay():
    before = mx.fast.rope, mx.fast.rms_norm, llama.scaled_dot_product_attention, llama.swiglu, llama.mx
    hosted(model_of("llama"))
    assert before == (mx.fast.rope, mx.fast.rms_norm, llama.scaled_dot_product_attention, llama.swiglu, mx)
    assert our_nodes(model_of("llama")(IDS)) == 0
