"""GGUF files that transformers has no model for, or that have their matrices joined."""

from __future__ import annotations

import gguf
import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lm_models import VOCABULARY, adjacent, encoded, transformers_model, write_gguf, write_vocabulary  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 24))
HEADS, SHARED, HEAD = 8, 2, 32
NAMES = {
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "model.tok_embeddings": "token_embd",
    "model.norm": "output_norm",
    "output": "output",
}


def internlm2():
    from mlx_lm.models.internlm2 import Model, ModelArgs

    mx.random.seed(1)
    sizes = ModelArgs("internlm2", HEADS * HEAD, 2, 512, HEADS, 1e-6, VOCABULARY, False, num_key_value_heads=SHARED)
    model = Model(sizes)
    flat = [(name, mx.random.normal(array.shape) * 0.1) for name, array in tree_flatten(model.parameters())]
    model.update(tree_unflatten([(name, 1 + array if "norm" in name else array) for name, array in flat]))
    return model


def write_internlm2(path, model) -> None:
    """Queries, keys and values apart, in types of their own; the model gets its weights unpacked."""
    writer = gguf.GGUFWriter(path, "internlm2")
    numbers = {"block_count": 2, "context_length": 512, "embedding_length": HEADS * HEAD, "feed_forward_length": 512}
    numbers |= {"attention.head_count": HEADS, "attention.head_count_kv": SHARED}
    for key, value in numbers.items():
        writer.add_uint32(f"internlm2.{key}", value)
    writer.add_float32("internlm2.attention.layer_norm_rms_epsilon", 1e-6)
    write_vocabulary(writer)

    def add(name, values, kind):
        raw = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        data = gguf.quants.quantize(values, raw)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=raw)
        return gguf.quants.dequantize(data, raw)

    exact = {}
    for name, array in tree_flatten(model.parameters()):
        module, values = name.removesuffix(".weight"), np.array(array)
        parts = module.split(".", 3)
        layer = f"blk.{parts[2]}." if ".layers." in module else ""
        if module.endswith("wqkv"):
            groups = values.reshape(SHARED, HEADS // SHARED + 2, HEAD, -1)
            q, k, v = groups[:, :-2], groups[:, -2], groups[:, -1]
            for part, kind, heads in ((q, "Q4_0", HEADS), (k, "Q8_0", SHARED), (v, "Q5_1", SHARED)):
                letter = "qkv"[[q is part, k is part, v is part].index(True)]
                rows = part.reshape(heads * HEAD, -1)
                stored = rows if letter == "v" else adjacent(rows, heads)
                read = add(f"{layer}attn_{letter}", stored, kind)
                rows = read if letter == "v" else read.reshape(heads, -1, 2, read.shape[1]).swapaxes(1, 2)
                part[...] = rows.reshape(part.shape)
            exact[name] = mx.array(values)
        else:
            exact[name] = mx.array(add(layer + NAMES[parts[3] if layer else module], values, "Q8_0"))
    model.update(tree_unflatten(list(exact.items())))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_internlm2_computes_what_mlx_lms_model_does(tmp_path):
    theirs = internlm2()
    write_internlm2(tmp_path / "model.gguf", theirs)
    ours, _ = mxd.lm.load(tmp_path / "model.gguf", dtype=mx.float32)
    expected = np.array(theirs(mx.array(IDS)))
    assert np.abs(np.array(ours(mx.array(IDS))) - expected).max() < 5e-5 * np.abs(expected).max()


def test_joined_queries_keys_and_values_are_split_packed(tmp_path, monkeypatch):
    """llama.cpp reads files of any architecture that have them joined."""
    import lm_models

    theirs = transformers_model("qwen2")
    write_gguf(tmp_path / "apart.gguf", "qwen2", theirs)

    def joined(name, model, kind):
        parts: dict[str, list[np.ndarray]] = {}
        for tensor, data, raw in encoded(name, model, kind):
            layer, _, rest = tensor.partition(".attn_")
            if rest.split(".")[0] not in ("q", "k", "v"):
                yield tensor, data, raw
                continue
            found = parts.setdefault(f"{layer}.attn_qkv.{rest.split('.')[1]}", [])
            found.append(data)
            if len(found) == 3:
                yield f"{layer}.attn_qkv.{rest.split('.')[1]}", np.concatenate(found), raw

    monkeypatch.setattr(lm_models, "encoded", joined)
    write_gguf(tmp_path / "joined.gguf", "qwen2", theirs)
    apart, _ = mxd.lm.load(tmp_path / "apart.gguf", dtype=mx.float32)
    model, _ = mxd.lm.load(tmp_path / "joined.gguf", dtype=mx.float32)
    assert np.array_equal(np.array(model(mx.array(IDS))), np.array(apart(mx.array(IDS))))
    for name, array in tree_flatten(model.parameters()):
        assert array.dtype == mx.uint8 or array.ndim == 1, name
