"""Short names in kernel texts, and short macros for words that stand there often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from string import ascii_letters, ascii_lowercase, digits

from .kernel_text import DEFINE, STRING, WORD, outside_strings

# Words of C++ and Metal that may stand where a name is declared, types of the platforms' headers, and the parameters of
# the macro SCRATCH.
_FIXED = frozenset(
    WORD.findall(
        "alignas alignof auto bool break case catch char class const constexpr continue decltype default delete double "
        "else enum explicit extern false float friend goto inline long mutable namespace noexcept nullptr operator "
        "private protected public register return short signed sizeof static static_assert static_cast struct switch "
        "template this throw true typedef typename union unsigned using virtual void volatile wchar_t while "
        "bfloat constant device half kernel metal size_t thread threadgroup uchar uint ulong ushort "
        "bfloat16_t float16_t int8_t uint16_t uint32_t uint64_t uint8_t "
        "count name type"
    )
)
# A macro that extends a word: `#define inline inline __attribute__((always_inline))`.
_MORE = re.compile(r"^#define (\w+) (.*\b\1\b.*)\n", re.MULTILINE)
_EMPTY = re.compile(r"^#\s*define\s+(\w+)\n", re.MULTILINE)
# Where a name is declared: after a word for what it is, after a type, or as an enumerator.
_DECLARED = (
    re.compile(r"\b(?:struct|union|enum|class|typename|using)\s+([A-Za-z]\w*)"),
    re.compile(r"\b(?!(?:return|else|case|goto|template|namespace)\b)\w+\s+([A-Za-z]\w*)(?=\s*[=;,)({\[:>])"),
    re.compile(r"[*&>]\s*([A-Za-z]\w*)(?=\s*[=;,){\[])"),
    re.compile(r">([A-Za-z]\w*)(?=\()"),
    re.compile(r"[{,]\s*([A-Za-z]\w*)="),
)
_INSTRUCTION = ("asm",)  # stays, for tools that read what follows
# Prefixes of strings, words of C++, and MLX's namespaces around a kernel.
_NEVER = ("L", "R", "U", "u", "u8", "uR", "as", "do", "if", "in", "or", "cg", "cu")
_SHORTEST = 4  # letters of a name that gets a shorter one
_UNROLL, _UNROLLS = "UNROLL", '_Pragma("unroll")'
_UNROLL_LINE = re.compile(r"(\w?)\n#pragma unroll\n")


def shortened(text: str, root: str, fixed: Collection[str]) -> tuple[str, str]:
    """A text and code that uses it, with one or two letters for names that the text declares, and for frequent words.

    Words are macros, defined after the #include lines, which come first. They stay in `root`: MLX looks for some of
    them there. The text's own macros keep their names; those that stand for nothing go. One that extends a word
    becomes that word's short macro.

    Args:
        text: as `without_spaces` writes it.
        fixed: names that stay.
    """
    text, root = _without_empty_macros(text, root)
    more = dict(_MORE.findall(text))
    text = _MORE.sub("", text)
    text = _UNROLL_LINE.sub(lambda match: f"{match[1] and match[1] + ' '}{_UNROLL} ", text)
    lines = text.splitlines(keepends=True)
    included = "".join(line for line in lines if line.startswith("#include"))
    code = STRING.sub('""', "".join(_code(text)))
    words, in_root = Counter(WORD.findall(code)), Counter(WORD.findall(root))
    kept = {*fixed, *DEFINE.findall(text), *_INSTRUCTION}
    names = {name for pattern in _DECLARED for name in pattern.findall(code)}
    names = {name for name in names if len(name) >= _SHORTEST} - _FIXED - kept
    stands_for = {_UNROLL: _UNROLLS, **more}
    frequent = {word for word, count in words.items() if word in stands_for or _gain(word, count) > 0}
    macros = frequent - names - kept
    new = _letters(names | macros, words + in_root, {*WORD.findall(text), *in_root})
    macros &= new.keys()
    defined = "".join(f"#define {new[word]} {stands_for.get(word, word)}\n" for word in sorted(macros))
    own = {word: short for word, short in new.items() if word not in macros}
    parts = [_renamed(line, own if line[0] == "#" else new) for line in lines if not line.startswith("#include")]
    return included + defined + "".join(parts), _renamed(root, own)


def _without_empty_macros(text: str, root: str) -> tuple[str, str]:
    """Both without macros that stand for nothing, but for those that an #if asks for."""
    asked = set(WORD.findall("".join(line for line in text.splitlines() if line.startswith("#if"))))
    empty = set(_EMPTY.findall(text)) - asked
    if not empty:
        return text, root
    word = re.compile(rf"\b(?:{'|'.join(sorted(empty))})\b ?")
    text = _EMPTY.sub(lambda match: match.group() if match.group(1) in asked else "", text)
    return outside_strings(text, lambda code: word.sub("", code)), word.sub("", root)


def _code(text: str) -> Iterator[str]:
    """The lines that are no directives."""
    return (line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _gain(word: str, count: int) -> int:
    """Letters that a macro of two letters spares."""
    return count * (len(word) - 2) - len(f"#define ab {word}\n")


def _letters(words: Collection[str], counts: Mapping[str, int], taken: Collection[str]) -> dict[str, str]:
    """One letter each for the most frequent words, two for the others."""
    pairs = (one + other for one in ascii_lowercase for other in ascii_letters + digits)
    free = (each for each in (*ascii_letters, *pairs) if each not in taken and each not in _NEVER)
    order = sorted(words, key=lambda word: (-counts[word], word))
    return dict(zip(order, free, strict=False))


def _renamed(code: str, new: Mapping[str, str]) -> str:
    return outside_strings(code, lambda piece: WORD.sub(lambda word: new.get(word.group(), word.group()), piece))
