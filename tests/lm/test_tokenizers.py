"""Tokenizers from GGUF files, against transformers' own conversion of the same files."""

from __future__ import annotations

from types import SimpleNamespace

import gguf
import pytest

import mlx_dequant as mxd
from mlx_dequant.loading import GGUFFile

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
transformers = pytest.importorskip("transformers")
pytest.importorskip("torch", reason="torch is not installed")

from lm_models import write_vocabulary  # noqa: E402
from lm_smollm2 import TEXT, model_file  # noqa: E402
from odd_strings import streamed  # noqa: E402

from mlx_dequant.lm.gguf_tokenizer import ends, tokenizer  # noqa: E402

TEXTS = (
    "the rain",
    "  The cat's 12345 toys, isn't it?\n\n\tYes!  ",
    "naïve café 東京 🙂 ",
    "<|im_start|>user\nHello<|im_end|>\n<think>hm</think>",
    "x = [1, 2]\r\n    return  x\n\n\n",
    "",
    TEXT,
)

LIGHTHOUSE = (70, [504, 33059, 9318, 418, 260, 1112])  # TEXT in tokens: their number, and the first ones


def theirs(path):
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def assert_same(ours, expected, texts=TEXTS) -> None:
    for text in texts:
        ids = ours.encode(text)
        assert ids == expected.encode(text), text
        assert ours.decode(ids) == expected.decode(ids)


def test_smollm2s():
    ours = tokenizer(GGUFFile(model_file()))
    text = ours.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert ours.eos_token_ids == {0, 2}
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")
    ids = ours.encode(TEXT)
    assert streamed(ours, ids) == TEXT
    assert (len(ids), ids[:6]) == LIGHTHOUSE


@pytest.mark.full
def test_smollm2s_is_transformers_own():
    """transformers reads the file for half a minute."""
    ours, expected = tokenizer(GGUFFile(model_file())), theirs(model_file())
    assert_same(ours, expected)
    ids = expected.encode(TEXT)
    assert (len(ids), ids[:6]) == LIGHTHOUSE
    for messages in ([{"role": "user", "content": "Hello"}], [{"role": "system", "content": "x"}]):
        asked = [
            each.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) for each in (ours, expected)
        ]
        assert asked[0] == asked[1]


@pytest.fixture
def write(tmp_path):
    """Writes a file that holds a tokenizer, and gives its path."""

    def written(fill, architecture="llama", **keys):
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        fill(writer)
        for key, value in keys.items():
            (writer.add_bool if isinstance(value, bool) else writer.add_string)(f"tokenizer.ggml.{key}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return written


def test_byte_level_vocabularies(write):
    path = write(write_vocabulary)
    ours = tokenizer(GGUFFile(path))
    assert_same(ours, theirs(path))
    pieces = ours.convert_ids_to_tokens(ours.encode("rain the<think>"))
    assert pieces == ["r", "a", "in", "Ġthe", "<think>"]
    assert streamed(ours, ours.encode(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shuffle", "yes", "shuffle: found yes, expected none such: nothing reads it"),
        ("normalizer.lowercase", True, "normalizer.lowercase: found True, expected False"),
        ("add_sep_token", True, "add_sep_token: found True, expected False"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(write, key, value, message):
    file = GGUFFile(write(write_vocabulary, **{key: value}))
    with pytest.raises(mxd.FormatError, match=rf"^model.gguf: tokenizer.ggml.{message}"):
        tokenizer(file)
    assert tokenizer(file, ignore=[f"tokenizer.ggml.{key}"]).encode("the rain")
    assert tokenizer(GGUFFile(write(write_vocabulary, remove_extra_whitespaces=False, add_sep_token=False)))


def test_templates_for_tools(write):
    def fill(writer):
        write_vocabulary(writer)
        writer.add_chat_template([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}])

    ours = tokenizer(GGUFFile(write(fill)))
    assert ours.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "plain"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert ours.apply_chat_template([{"role": "user", "content": "x"}], tools=[tool], tokenize=False) == "tools"


PIECES = [*"▁the", "▁t", "he", "▁the", *"rain", "in", "▁r", "ain", "rain", "s", "▁ra", "▁rain", "é", "▁▁"]


def sentence_pieces(writer, scores=None, last="<turn>") -> None:
    """A vocabulary in the order of scores, as SentencePiece makes them."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, last]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores or [0.0] * 259 + [-float(rank) for rank in range(len(PIECES) + 1)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(PIECES) + [4])
    for add, number in ((writer.add_unk_token_id, 0), (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2)):
        add(number)


def test_sentence_piece_vocabularies(write):
    path = write(sentence_pieces)
    ours = tokenizer(GGUFFile(path))
    assert ours.convert_ids_to_tokens(ours.encode("the rains")) == ["<s>", "▁the", "▁rain", "s"]
    assert ours.encode("é東")[1:] == [259, 259 + PIECES.index("é"), 3 + 0xE6, 3 + 0x9D, 3 + 0xB1]
    assert ours.convert_ids_to_tokens(ours.encode("the<turn>the"))[2] == "<turn>"
    assert ours.decode(ours.encode("the rains 東"), skip_special_tokens=True) == "the rains 東"
    assert streamed(ours, ours.encode("the rains é東")[1:]) == "the rains é東"
    expected = theirs(path)
    for text in ("the rain", "rains in the rain", "the  é 東京"):
        assert ours.encode(text) == expected.encode(text), text


def test_gemmas_order_is_that_of_its_tokens(write):
    """Its scores say nothing, and its runs of spaces are spelled as such."""

    def fill(writer):
        sentence_pieces(writer, scores=[0.0] * (260 + len(PIECES)), last="  ")

    ours = tokenizer(GGUFFile(write(fill, "gemma3", add_space_prefix=False)))
    assert ours.convert_ids_to_tokens(ours.encode("the  the rain")) == ["<s>", "t", "he", "  ", "t", "he", "▁rain"]


def test_a_file_says_what_stands_around_a_text(write):
    path = write(sentence_pieces, add_bos_token=False, add_eos_token=True, add_space_prefix=False)
    ours = tokenizer(GGUFFile(path))
    assert ours.convert_ids_to_tokens(ours.encode("the rain")) == ["t", "he", "▁rain", "</s>"]
    assert streamed(ours, ours.encode(" the rain")[:-1]) == " the rain"


def test_a_token_that_settings_add(write):
    ours = tokenizer(GGUFFile(write(sentence_pieces)), {"pad_token": "<new>"})
    number = 260 + len(PIECES)
    assert (len(ours), ours.get_vocab()["<new>"], ours.pad_token_id) == (number + 1, number, number)
    assert ours.convert_ids_to_tokens([number, number - 1]) == ["<new>", "<turn>"]
    assert streamed(ours, [number, *ours.encode("the")[1:]]) == "<new> the"


def test_a_saved_tokenizer_is_the_same(write, tmp_path):
    ours = tokenizer(GGUFFile(write(sentence_pieces)))
    ours.save_pretrained(tmp_path / "saved")
    assert not vars(ours.backend_tokenizer)
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "12345 ab\n\n x", ["12345", "Ġab", "ĊĊ", "Ġx"]),
        ("smollm", "12345 ab\n\n x", ["1", "2", "3", "4", "5", "Ġab", "ĊĊ", "Ġx"]),
        ("llama-bpe", "12345 ab!\n\n x", ["123", "45", "Ġab", "!ĊĊ", "Ġx"]),
        ("qwen2", "12345 ab!\n\n x", ["1", "2", "3", "4", "5", "Ġab", "!ĊĊ", "Ġx"]),
        ("smaug-bpe", "12345 ab!\n\n x", ["123", "45", "Ġab", "!ĊĊ", "Ġx"]),
        ("deepseek-llm", "12345 ab!\n\n x ", ["12345", "Ġab", "!", "Ċ", "Ċ", "Ġx", "Ġ"]),
        ("deepseek-llm", "x东京y ab", ["x", "ä¸ľäº¬", "y", "Ġab"]),
        ("deepseek-coder", "12 ab?!\n x+", ["1", "2", "Ġab", "?!", "Ċ", "Ġx", "+"]),
        ("tekken", "12 CamelCase/\n", ["1", "2", "ĠCamel", "Case", "/Ċ"]),
        ("exaone4", "12345 ab\n\n x", ["12345", "Ġab", "ĊĊ", "Ġx"]),
        ("starcoder", "123 ab", ["1", "2", "3", "Ġab"]),
        ("glm4", "12345 ab!\n\n x", ["123", "45", "Ġab", "!ĊĊ", "Ġx"]),
        ("stablelm2", "123 ab!\n x", ["1", "2", "3", "Ġab", "!Ċ", "Ġx"]),
        ("qwen35", "12 का!\n", ["1", "2", "Ġà¤ķà¤¾", "!Ċ"]),
        ("gpt-4o", "1234 CamelCase's/\n", ["123", "4", "ĠCamel", "Case's", "/Ċ"]),
        ("deepseek-v3", "12345 ab?!\n_x y", ["123", "45", "Ġab", "?!Ċ", "_x", "Ġy"]),
        ("deepseek-v3", "x东京カy", ["x", "ä¸ľäº¬ãĤ«", "y"]),
        ("kimi-k2", "1234 CamelCase's/\n", ["123", "4", "ĠCamel", "Case's", "/Ċ"]),
        ("kimi-k2", "x东京y", ["x", "ä¸ľäº¬", "y"]),
        ("seed-coder", "12 ab!\n", ["1", "2", "Ġab", "!", "Ċ"]),
    ],
)
def test_how_text_is_cut(pre, text, pieces):
    from mlx_dequant.lm.vocabularies import byte_level

    cut = byte_level({"a": 0}, {"pre": pre, "merges": []}).pre_tokenizer
    assert [piece for piece, _ in cut.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize(("letter", "whole"), [("É", True), ("ж", True), ("ա", False), ("ა", False), ("𝐀", False)])
def test_letters_that_deepseek_cuts_off(letter, whole):
    from mlx_dequant.lm.vocabularies import byte_level

    cut = byte_level({"a": 0}, {"pre": "deepseek-llm", "merges": []}).pre_tokenizer
    assert (len(cut.pre_tokenize_str(f"é{letter}é")) == 1) == whole


def test_smaugs_merges_come_first():
    """Only Llama 3's own vocabulary has tokens that no merge makes."""
    from mlx_dequant.lm.vocabularies import byte_level

    tokens = {"a": 0, "b": 1, "ab": 2}
    for pre, found in (("llama-bpe", [2]), ("smaug-bpe", [0, 1])):
        assert byte_level(tokens, {"pre": pre, "merges": []}).encode("ab").ids == found


def test_a_file_without_a_tokenizer_is_refused(write):
    with pytest.raises(mxd.FormatError, match=r"tokenizer.ggml.model: found None, expected gpt2, llama, gemma4"):
        tokenizer(GGUFFile(write(lambda writer: None)))


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        (["<|endoftext|>", "<|user|>", "<|end|>"], {"<|endoftext|>", "<|end|>"}),
        (["<|endoftext|>", "<|return|>", "<|call|>", "<|end|>"], {"<|endoftext|>", "<|return|>", "<|call|>"}),
        (["<|endoftext|>", "<EOT>"], {"<|endoftext|>", "<EOT>"}),
    ],
)
def test_tokens_that_end_an_answer_by_their_text(special, expected):
    tokens = ["a", *special]
    prefix = "tokenizer.ggml."
    metadata = {f"{prefix}tokens": tokens, f"{prefix}token_type": [1, *[3] * len(special)], f"{prefix}eos_token_id": 1}
    assert {tokens[number] for number in ends(SimpleNamespace(metadata=metadata))} == expected
