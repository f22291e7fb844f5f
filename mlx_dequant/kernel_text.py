"""Short kernel texts: without comments, indentation and needless spaces.

MLX copies a kernel's text when it builds a call, and hashes it at each launch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
STRING = re.compile(r'("(?:\\.|[^"\\])*")')
_ASSERTION = re.compile(r'static_assert\([^"]*"[^"]*"\);')
# A space with a word on one side at most, and an operator on one side at most; colons of assembly go together.
_SPACE = re.compile(
    r"(?<=[\w]) (?=[^\w])|(?<=[^\w]) (?=[\w])|(?<=[(){}\[\];,]) |(?<=:) (?!::\w)| (?=[(){}\[\];,])| (?=:(?!:\w))"
)
_AGAIN = re.compile(r"(?:^|(?<=[};]))\}namespace mlx_dequant\{")  # a namespace that ends and begins again
WORD = re.compile(r"\b[A-Za-z_]\w*")
DEFINE = re.compile(r"#\s*define\s+(\w+)")
MACRO = re.compile(r"^#\s*define (\w+)(\([^)]*\)) (.*)", re.MULTILINE)


def without_comments(text: str) -> str:
    """The text without comments, `#line`, indentation and empty lines; a macro is one line."""
    text = _COMMENT.sub(lambda match: match.group(1) or " ", text).replace("\\\n", " ")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#line")) + "\n"


def without_spaces(text: str) -> str:
    """The text without comments, assertions and spaces that neither C++ nor assembly in its strings needs."""
    lines = without_comments(text).splitlines()
    parts: list[str] = []
    for is_directive, group in groupby(lines, lambda line: line.startswith("#")):
        piece = "\n".join(group)
        if is_directive:
            parts.append(MACRO.sub(_dense_macro, piece))
        else:
            parts.append(_AGAIN.sub("", _dense(_ASSERTION.sub("", piece))))
    return STRING.sub(lambda match: match[0].replace(", ", ","), "\n".join(parts)) + "\n"


def _dense(text: str) -> str:
    """Code without spaces, except between words and between operators."""
    return outside_strings(" ".join(text.split()), lambda code: _SPACE.sub("", code))


def _dense_macro(match: re.Match[str]) -> str:
    return f"#define {match[1]}{_dense(match[2])} {_dense(match[3])}"


def outside_strings(text: str, change: Callable[[str], str]) -> str:
    """The text with what lies between its strings changed."""
    return "".join(piece if at % 2 else change(piece) for at, piece in enumerate(STRING.split(text)))
