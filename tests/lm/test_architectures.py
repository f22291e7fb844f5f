"""Models from GGUF files: small random ones, against transformers with the same unpacked weights."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd
from mlx_dequant.nn import PackedEmbedding, PackedLinear

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_models import MODELS, SHAPE, transformers_model, write_gguf  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

IDS = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, 24))


def logits(model, ids: np.ndarray) -> np.ndarray:
    return np.array(model(mx.array(ids)).astype(mx.float32))


def expected(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


def assert_close(found: np.ndarray, expected: np.ndarray, share: float = 2e-5) -> None:
    """Float32 rounding through a few layers, as a share of the largest logit."""
    assert np.abs(found - expected).max() < share * np.abs(expected).max()


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_computes_what_transformers_does(name, tmp_path):
    theirs = transformers_model(name)
    write_gguf(tmp_path / "model.gguf", name, theirs)
    ours, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    assert_close(logits(ours, IDS), expected(theirs, IDS))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_prompt_caches_work(name, tmp_path):
    from mlx_lm.models.cache import make_prompt_cache

    write_gguf(tmp_path / "model.gguf", name, transformers_model(name))
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    whole = logits(model, IDS[:1])
    cache = make_prompt_cache(model)
    parts = [IDS[:1, :10], IDS[:1, 10:21], *(IDS[:1, at : at + 1] for at in (21, 22, 23))]
    found = np.concatenate([np.array(model(mx.array(part), cache=cache)) for part in parts], axis=1)
    assert_close(found, whole)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_types_of_files_and_of_activations(kind, dtype, tmp_path):
    """Matrices stay as the file has them; activations and norms are of the type asked for."""
    theirs = transformers_model("llama")
    write_gguf(tmp_path / "model.gguf", "llama", theirs, kind)
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=dtype)
    own = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}.get(kind)
    packed = own is None or own != dtype
    assert isinstance(model.model.embed_tokens, PackedEmbedding) == packed
    assert isinstance(model.model.layers[0].mlp.up_proj, PackedLinear) == packed
    assert model.model.norm.weight.dtype == dtype
    assert model(mx.array(IDS)).dtype == dtype
    share = {mx.float32: 2e-5, mx.float16: 2e-2, mx.bfloat16: 1e-1}[dtype]
    assert_close(logits(model, IDS), expected(theirs, IDS), share)


def test_activations_on_the_cpu_are_float32(host, tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    model, _ = mxd.lm.load(tmp_path / "model.gguf")
    assert model(mx.array(IDS)).dtype == mx.float32


def test_no_weight_is_unpacked(tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    model, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    matrices = {name: array.dtype for name, array in tree_flatten(model.parameters()) if array.ndim > 1}
    assert len(matrices) == 2 + 7 * SHAPE["num_hidden_layers"]
    assert set(matrices.values()) == {mx.uint8}


def test_stock_generation(tmp_path):
    from mlx_lm import generate, stream_generate

    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    model, tokenizer = mxd.lm.load(tmp_path / "model.gguf")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "the rain"}], add_generation_prompt=True)
    text = "".join(response.text for response in stream_generate(model, tokenizer, prompt, max_tokens=12))
    assert text
    assert generate(model, tokenizer, prompt, max_tokens=12) == text


REFUSED = [
    (
        {"general.architecture": "mamba"},
        r"general.architecture: found 'mamba', expected one of llama, qwen2, qwen3, gemma, gemma2,",
    ),
    ({"llama.expert_count": 8}, r"llama.expert_used_count: found None, expected int"),
    ({"llama.block_count": 4}, r"tensor 'blk.3.attn_q.weight': not found"),
    ({"llama.block_count": 2}, r"tensor 'blk.2.attn_k.weight': found, expected none such in a llama model"),
    (
        {"llama.block_count": 10**9},
        r"llama.block_count: found 1000000000, expected at most one for each of \d+ tensors",
    ),
    ({"llama.embedding_length": 128}, r"found a weight of|found shape"),
    ({"llama.embedding_length": "64"}, r"llama.embedding_length: found '64', expected int"),
    ({"llama.embedding_length": None}, r"llama.embedding_length: found None, expected int"),
    ({"llama.attention.head_count": 0}, r"llama.attention.head_count: found 0, expected a positive integer"),
    ({"llama.rope.dimension_count": 8}, r"llama.rope.dimension_count: found 8, expected 16"),
    (
        {"llama.rope.scaling.type": "longrope"},
        r"llama.rope.scaling.type: found 'longrope', expected none, linear or yarn",
    ),
    ({"tokenizer.ggml.model": "t5"}, r"tokenizer.ggml.model: found 't5', expected gpt2, llama, gemma4"),
    ({"tokenizer.ggml.pre": "poro"}, r"tokenizer.ggml.pre: found 'poro', expected one of default, gpt-2, olmo,"),
    (
        {"tokenizer.ggml.eos_token_id": 999},
        r"model.gguf: tokenizer.ggml.eos_token_id: found 999, expected the number of one of 288 tokens",
    ),
    ({"tokenizer.ggml.eos_token_id": "x"}, r"tokenizer.ggml.eos_token_id: found 'x', expected the number"),
    ({"tokenizer.ggml.merges": ["x"]}, r"model.gguf: tokenizer: found what transformers does not read: "),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[next(iter(changes)) for changes, _ in REFUSED])
def test_what_is_refused(changes, message, tmp_path, monkeypatch):
    from mlx_dequant.loading import GGUFFile

    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    opened = GGUFFile.__init__

    def changed(self, path):
        opened(self, path)
        self.metadata = {key: value for key, value in {**self.metadata, **changes}.items() if value is not None}

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    with pytest.raises(mxd.FormatError, match=message):
        mxd.lm.load(tmp_path / "model.gguf")


def test_another_type_of_activations_is_refused():
    with pytest.raises(mxd.FormatError, match=r"^dtype: found .*int32, expected float32, float16 or bfloat16"):
        mxd.lm.load("model.gguf", dtype=mx.int32)


def test_without_mlx_lm_the_import_names_the_extra():
    code = "import sys; sys.modules['mlx_lm'] = None; import mlx_dequant as mxd; mxd.lm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == (
        "mlx_dequant.needs.MissingError: mlx_dequant.lm needs mlx-lm: pip install 'mlx-dequant[lm]'"
    )
