"""Small language models with random weights: transformers' own, and GGUF files of them as llama.cpp's converter
writes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

VOCABULARY = 288
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest one, as a share of the largest logit."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


# By name: the class of the model, what its config has besides SHAPE, the file's architecture and further keys.
MODELS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "llama": ("Llama", rope(1e4), "llama", {}),
    "llama tied, with biases": (
        "Llama",
        dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, **rope(5e5)),
        "llama",
        {"rope.freq_base": 5e5},
    ),
    "llama 3.1": ("Llama", {"rope_parameters": LLAMA3}, "llama", {}),
    "llama, linear scaling": (
        "Llama",
        rope(1e4, rope_type="linear", factor=4.0),
        "llama",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama, linear scaling by its old name": (
        "Llama",
        rope(1e4, rope_type="linear", factor=4.0),
        "llama",
        {"rope.scale_linear": 4.0},
    ),
    "mistral": ("Mistral", dict(head_dim=32, sliding_window=None, **rope(1e6)), "llama", {"rope.freq_base": 1e6}),
    "qwen2": ("Qwen2", rope(1e6), "qwen2", {"rope.freq_base": 1e6}),
    "qwen3": ("Qwen3", dict(head_dim=32, tie_word_embeddings=True, **rope(1e6)), "qwen3", {"rope.freq_base": 1e6}),
    "qwen3, yarn": (
        "Qwen3",
        rope(1e6, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        "qwen3",
        {
            "rope.freq_base": 1e6,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "num_hidden_layers": 7,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        },
        "gemma3",
        {"rope.freq_base": 1e6, "attention.sliding_window": 8},
    ),
}


def transformers_model(name: str, **changes: Any) -> Any:
    """The model in float32, its norms and biases random too."""
    kind, extra, _, _ = MODELS[name]
    torch.manual_seed(len(name))
    text = "Text" if kind == "Gemma3" else ""
    config = getattr(transformers, f"{kind}{text}Config")(**{**SHAPE, **extra, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def halves_apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """The converter's permutation, undone."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def adjacent(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to queries and keys of the llama architecture."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_file(path: Path, architecture: str, numbers: dict[str, Any], tensors: Any) -> None:
    """Writes a GGUF file: keys below the architecture's name, a small vocabulary, and tensors with their types."""
    writer = gguf.GGUFWriter(path, architecture)
    add: dict[type, Any] = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    add |= {str: writer.add_string, list: writer.add_array}
    for key, value in numbers.items():
        add[type(value)](f"{architecture}.{key}", value)
    write_vocabulary(writer)
    for tensor, data, raw in tensors:
        writer.add_tensor(tensor, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path: Path, name: str, model: Any, kind: str = "Q8_0", **keys: Any) -> None:
    """Writes the model with its matrices in `kind`, and gives it the weights that they then have."""
    _, _, architecture, extra = MODELS[name]
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        **extra,
        **keys,
    }
    factors = [("rope_freqs.weight", rope_factors(head_dim), None)] if name == "llama 3.1" else []
    write_file(path, architecture, numbers, [*factors, *encoded(name, model, kind)])


def encoded(name: str, model: Any, kind: str):
    """Tensors by the file's names, packed; the model gets them unpacked."""
    architecture = MODELS[name][2]
    known = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(known, model.config.num_hidden_layers)
    matrices = gguf.GGMLQuantizationType[kind]
    for parameter, tensor in model.named_parameters():
        values = tensor.detach().numpy()
        heads = model.config.num_attention_heads if "q_proj" in parameter else model.config.num_key_value_heads
        permuted = architecture == "llama" and ("q_proj" in parameter or "k_proj" in parameter)
        offset = 1 if architecture == "gemma3" and parameter.endswith("norm.weight") else 0
        stored = (adjacent(values, heads) if permuted else values) + np.float32(offset)
        raw = matrices if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(stored, raw)
        exact = gguf.quants.dequantize(data, raw).reshape(stored.shape) - np.float32(offset)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(halves_apart(exact, heads) if permuted else exact))
        yield names.get_name(parameter, (".weight", ".bias")), data, raw


def rope_factors(dims: int) -> np.ndarray:
    """How the converter turns LLAMA3 into a factor for each wavelength."""
    wavelengths = 2 * math.pi * LLAMA3["rope_theta"] ** (np.arange(0, dims, 2) / dims)
    cycles = LLAMA3["original_max_position_embeddings"] / wavelengths
    low, high, factor = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"], LLAMA3["factor"]
    smooth = (cycles - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(cycles < low, factor, np.where(cycles > high, 1, between)).astype(np.float32)


def write_vocabulary(writer: gguf.GGUFWriter) -> None:
    """A byte-level vocabulary: the bytes, some merges and special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "o n", "r e", "a t", "e n"]
    special = ["<|im_start|>", "<|im_end|>", "<think>"]
    tokens = [*letters, *(merge.replace(" ", "") for merge in merges), *special]
    spare = VOCABULARY - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"[PAD{number}]" for number in range(spare))])
    writer.add_token_types([1] * (len(tokens) - 3) + [3, 3, 4] + [5] * spare)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
