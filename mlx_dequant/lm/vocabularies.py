"""The kinds of vocabularies in GGUF files, as tokenizers of the tokenizers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .merges import merges as derived

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The end of the patterns, after letters and digits.
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _WORDS + r"|\p{N}" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED = _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
# DeepSeek's patterns cut one after the other. Its letters are those with case, but for some scripts.
_HAN_HANGUL = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_NOT_CASED = (
    r"\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C88}\x{2D00}-\x{2D2D}\x{A790}-\x{A7FA}\x{AB30}-\x{AB68}"
    r"\x{10570}-\x{105BC}\x{16E40}-\x{16E7F}\x{1D400}-\x{1D7CB}\x{1DF00}-\x{1DF1E}"
)
_CASED = rf"[\p{{Lu}}\p{{Ll}}\p{{Lt}}&&[^{_NOT_CASED}]]"
_DEEPSEEK = (r"[\r\n]", rf"\s?{_CASED}+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _HAN_HANGUL, r"\p{N}+")
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
    r"[!-/:-~&&[^A-Za-z]][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_NOT_HAN_UPPER, _NOT_HAN_LOWER = (letters[:-1] + r"&&[^\p{Han}]]" for letters in (_UPPER, _LOWER))
_KIMI = (
    rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?{_NOT_HAN_UPPER}*{_NOT_HAN_LOWER}+{_ENDINGS}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_NOT_HAN_UPPER}+{_NOT_HAN_LOWER}*{_ENDINGS}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How text is split before merges, by `tokenizer.ggml.pre`: patterns, and whether GPT-2's word pattern follows.
_CUTS: Mapping[tuple[str, ...], tuple[tuple[str, ...], bool]] = {
    ("default", "gpt-2", "olmo", "mpt", "phi-2", "exaone4", "trillion", "granite-docling"): ((), True),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): ((r"\p{N}",), True),
    ("llama-bpe", "llama-v3", "llama3", "falcon3", "falcon-h1", "pixtral", "lfm2"): ((_LLAMA3,), False),
    ("smaug-bpe", "dbrx", "chatglm-bpe", "glm4"): ((_LLAMA3,), False),
    ("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"): ((_QWEN2,), False),
    ("qwen35",): ((_QWEN35,), False),
    ("gpt-4o", "llama4"): ((_GPT4O,), False),
    ("seed-coder",): ((_SEED,), False),
    ("deepseek-llm",): (_DEEPSEEK, False),
    ("deepseek-coder",): (_DEEPSEEK_CODER, False),
    ("deepseek-v3",): (_DEEPSEEK3, False),
    ("kimi-k2",): ((_KIMI,), False),
    ("tekken",): ((_TEKKEN,), False),
}
CUTS = {name: cut for names, cut in _CUTS.items() for name in names}
# Those with tokens that no merge makes. llama.cpp puts their first token before a text.
LLAMA3_LIKE = {"llama-bpe", "llama-v3", "llama3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"}
# Whose tokenizers write letters with accents in one form first.
NFC = {"qwen2", "deepseek-r1-qwen", "qwen35", "command-r"}
SPACE = "▁"


def byte_level(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> Tokenizer:
    """GPT-2's BPE: bytes as printable characters, split into words and merged in the file's order."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    cut = settings.get("pre", "default")
    if cut not in CUTS:
        raise ValueError(f"tokenizer.ggml.pre: found {cut!r}, expected one of {', '.join(CUTS)}")
    patterns, words = CUTS[cut]
    merges = [tuple(merge.split(" ")) for merge in settings["merges"]]
    built: Any = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut in LLAMA3_LIKE))
    parts: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words))
    built.pre_tokenizer = pre_tokenizers.Sequence(parts)
    built.decoder = decoders.ByteLevel()
    if cut in NFC:
        built.normalizer = normalizers.NFC()
    return built


def sentence_piece(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece's BPE: a space is a character, and the token with the best score is merged first.

    Without scores, tokens are merged in the order of the vocabulary.
    """
    others = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = derived(vocabulary, settings.get("scores"), [*others, _unknown(settings)])
    return _of_characters(vocabulary, merges, settings, settings.get("add_space_prefix", True))


def merged_characters(vocabulary: dict[str, int], settings: Mapping[str, Any]) -> Tokenizer:
    """Gemma 4's: characters as SentencePiece has them, merged in the file's order."""
    merges = [_parted(merge) for merge in settings["merges"]]
    return _of_characters(vocabulary, merges, settings, settings.get("add_space_prefix", False))


def _parted(merge: str) -> tuple[str, str]:
    """A merge at its first space that is no token itself."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def _of_characters(vocabulary: dict[str, int], merges: Any, settings: Mapping[str, Any], prefixed: bool) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    unknown = _unknown(settings)
    built: Any = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", SPACE)
    decoding: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefixed:
        spaces = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        decoding.append(decoders.Strip(" ", 1, 0))
    built.normalizer = spaces
    built.decoder = decoders.Sequence(decoding)
    return built


def _unknown(settings: Mapping[str, Any]) -> str:
    return settings["tokens"][settings.get("unknown_token_id", 0)]


def numbered(tokens: list[str]) -> dict[str, int]:
    """The number of each token; the last one of a token that stands there twice."""
    return dict(zip(tokens, range(len(tokens)), strict=True))
