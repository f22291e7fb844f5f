"""Odd strings in tokens: tokenizers of GGUF files against those that transformers makes of the same vocabulary."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace

import gguf
import pytest

from mlx_dequant.loading import GGUFFile

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
transformers = pytest.importorskip("transformers")

from odd_strings import CONTROL, ODD, byte_pairs, pieces, streamed  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from mlx_dequant.lm.gguf_tokenizer import tokenizer  # noqa: E402

# transformers' class of a tokenizer by `tokenizer.ggml.pre`.
CLASSES = {
    "gpt-2": "gpt2.GPT2Tokenizer",
    "qwen2": "qwen2.Qwen2Tokenizer",
    "qwen35": "qwen3_5.Qwen3_5Tokenizer",
    "command-r": "cohere.CohereTokenizer",
}
# GPT-4's pattern, which transformers takes for what tiktoken made.
TIKTOKEN = ("llama-bpe", "glm4", "smaug-bpe")


def class_of(name: str):
    module, kind = name.split(".")
    return getattr(importlib.import_module(f"transformers.models.{module}.tokenization_{module}"), kind)


def opened(path, model, tokens, types, **keys):
    """A file's tokenizer."""
    writer = gguf.GGUFWriter(path, keys.pop("architecture", "llama"))
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in keys.items():
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokenizer(GGUFFile(path))


def assert_same(ours, expected) -> None:
    wrong = [text for text in ODD if ours.encode(text, add_special_tokens=False) != expected(text)]
    assert not wrong


def test_there_are_sixty():
    assert len(set(ODD)) == len(ODD) > 90


@pytest.mark.parametrize("pre", [*CLASSES, *TIKTOKEN])
def test_byte_level_vocabularies(pre, tmp_path):
    tokens, merges = byte_pairs()
    tokens = [*tokens, *CONTROL]
    types = [1] * (len(tokens) - 2) + [3, 3]
    joined = [" ".join(merge) for merge in merges]
    ours = opened(tmp_path / "model.gguf", "gpt2", tokens, types, pre=pre, merges=joined, add_bos_token=False)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge) for merge in merges]
    if pre in CLASSES:
        made = class_of(CLASSES[pre])(vocab=vocabulary, merges=pairs)
        made.add_special_tokens({"additional_special_tokens": list(CONTROL)})
        assert_same(ours, lambda text: made.encode(text, add_special_tokens=False))
    else:
        from transformers.convert_slow_tokenizer import TikTokenConverter

        pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
        built = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=pre == "llama-bpe"))
        cut, spelled = (
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        )
        built.pre_tokenizer = pre_tokenizers.Sequence([cut, spelled])
        built.decoder = decoders.ByteLevel()
        built.add_special_tokens(list(CONTROL))
        assert_same(ours, lambda text: built.encode(text).ids)
    if pre not in ("qwen2", "qwen35", "command-r"):  # which write letters in one form
        assert [text for text in ODD if streamed(ours, ours.encode(text, add_special_tokens=False)) != text] == []


@pytest.mark.parametrize("model", ["llama", "gemma", "gemma4"])
def test_vocabularies_of_characters(model, tmp_path):
    from transformers.convert_slow_tokenizer import LlamaConverter, generate_merges

    tokens, merges = pieces()
    tokens = [*tokens, *CONTROL]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 261) + [3, 3]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    keys = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "add_space_prefix": model == "llama"}
    names = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    if model == "gemma4":
        known = [pair for pair in merges if {*pair, "".join(pair)} <= vocabulary.keys()]
        keys |= {"merges": [" ".join(pair) for pair in known]}
        made = transformers.GemmaTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in known], **names)
    else:
        keys |= {"scores": scores} if model == "llama" else {"architecture": "gemma3"}
        generated = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)))
        made = transformers.GemmaTokenizer(vocab=vocabulary, merges=generated, **names)
    if model == "llama":  # as files of Llama 2 have it: a space before each part of a text
        spaces = SimpleNamespace(original_tokenizer=SimpleNamespace(legacy=True, add_prefix_space=True))
        made.backend_tokenizer.normalizer = LlamaConverter.normalizer(spaces, None)
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("\uffff", "isolated")  # never found
        made.backend_tokenizer.decoder = LlamaConverter.decoder(spaces, "▁", True)
    made.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    name = "gemma4" if model == "gemma4" else "llama"
    ours = opened(tmp_path / "model.gguf", name, tokens, types, **keys)
    assert_same(ours, lambda text: made.encode(text, add_special_tokens=False))
    ids = [ours.encode(text, add_special_tokens=False) for text in ODD]
    assert [streamed(ours, each) for each in ids] == [made.decode(each) for each in ids]
    if model != "llama":
        assert [streamed(ours, each) for each in ids] == list(ODD)
