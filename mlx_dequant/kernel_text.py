"""Short kernel texts: without comments, indentation and declarations that the kernel does not use.

MLX copies a kernel's text when it builds a call, and hashes it at each launch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
STRING = re.compile(r'("(?:\\.|[^"\\])*")')
_MARK = re.compile(r'"(?:\\.|[^"\\])*"|[(){};]')
_ASSERTION = re.compile(r'static_assert\([^"]*"[^"]*"\);')
# A space with a word on one side at most, and an operator on one side at most; colons of assembly go together.
_SPACE = re.compile(
    r"(?<=[\w]) (?=[^\w])|(?<=[^\w]) (?=[\w])|(?<=[(){}\[\];,]) |(?<=:) (?!::\w)| (?=[(){}\[\];,])| (?=:(?!:\w))"
)
_AGAIN = re.compile(r"(?:^|(?<=[};]))\}namespace mlx_dequant\{")  # a namespace that ends and begins again
WORD = re.compile(r"\b[A-Za-z_]\w*")
_CONDITIONAL = re.compile(r"#\s*(if|ifdef|ifndef|endif)\b")
_TYPE = re.compile(r"(?:template\s*<.*>\s*)?(?:struct|union|enum|namespace)\b\s*([A-Za-z_]\w*)?[^()=]*$", re.DOTALL)
DEFINE = re.compile(r"#\s*define\s+(\w+)")
_MACRO = re.compile(r"^#\s*define (\w+)(\([^)]*\)) (.*)", re.MULTILINE)
_TYPEDEF = re.compile(r"typedef\b.*?(\w+)\s*;$", re.DOTALL)
_USING = re.compile(r"using\s+(\w+)\s*=")
_FUNCTION = re.compile(r"([A-Za-z_]\w*)\s*\(")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)*(?:=|\{|;)")
_TEMPLATE = re.compile(r"template\s*<")
_NAMES_TYPE = re.compile(r"struct|union|typedef|using")
_PARAMETERS = re.compile(r"\((.*)\)", re.DOTALL)
_PARAMETER_NAME = re.compile(r"(?<=[\w>&*])\s+\w+(?=\s*(?:[,\[=)]|$))|(?<=[*&])\w+(?=\))")
_MACRO_CALL = re.compile(r"[A-Z][A-Z_]*\([^()]*\)(?=\s*(?:[A-Z#]|$))")  # one that makes declarations
_FORWARD = re.compile(r"(?:struct|union)\s+(\w+)\s*;")
_SPECIALISED = re.compile(r"template\s*<[^{]*?>\s*struct\s+\w+\s*<([^{]*)>\s*$")


@dataclass
class _Declaration:
    """A piece of a text.

    Attributes:
        names: what it declares; empty for what always stays.
        types: that a specialisation is made for, or that a function takes; it is used where these are, too.
        start: its text, or that before its members.
        members: declarations within braces.
        end: the text after its members.
    """

    names: frozenset[str]
    start: str
    members: list[_Declaration] = field(default_factory=lambda: [])
    end: str = ""
    types: frozenset[str] = frozenset()

    def own_words(self) -> set[str]:
        return set(WORD.findall(self.start))


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
            parts.append(_MACRO.sub(_dense_macro, piece))
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


def used(text: str, root: str) -> str:
    """The declarations of `text` that `root` uses, directly or through others.

    A declaration is used where its name is written. A function or a specialisation also needs every type of the text
    that its parameters or arguments name to be written in what is used. A text uses no macro's name twice.

    Args:
        text: C++ at namespace level, without comments.
        root: code that stays, and the types of its arrays.
    """
    declarations = list(_declarations(text, {name: body for name, _, body in _MACRO.findall(text)}))
    types = set(_types(declarations))
    for one in _all(declarations):
        one.types &= types
    words = set(WORD.findall(root))
    kept: set[int] = set()
    while _keep(declarations, words, kept):
        pass
    return "".join(_written(declarations, kept))


def _all(declarations: list[_Declaration]) -> Iterator[_Declaration]:
    for one in declarations:
        yield one
        yield from _all(one.members)


def _types(declarations: list[_Declaration]) -> Iterator[str]:
    """The types that a text declares, but for members of others."""
    for one in declarations:
        if one.start.startswith("namespace"):
            yield from _types(one.members)
        elif _NAMES_TYPE.match(_without_template(one.start)):
            yield from one.names


def _keep(declarations: list[_Declaration], words: set[str], kept: set[int]) -> bool:
    """Keeps what `words` name and adds its words to them; whether there was any."""
    found = False
    for one in declarations:
        if id(one) not in kept:
            if (one.names and words.isdisjoint(one.names)) or not one.types <= words:
                continue
            kept.add(id(one))
            words |= one.own_words()
            found = True
        found |= _keep(one.members, words, kept)
    return found


def _written(declarations: list[_Declaration], kept: set[int]) -> Iterator[str]:
    for one in declarations:
        if id(one) in kept:
            yield one.start
            yield from _written(one.members, kept)
            yield one.end


def _declarations(text: str, macros: Mapping[str, str]) -> Iterator[_Declaration]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text[at] == "#":
            end = _directive_end(text, at)
            piece = text[at:end]
            names = _names_within(piece, macros) if _CONDITIONAL.match(piece) else set(DEFINE.findall(piece))
            if not piece.startswith("#undef"):
                yield _Declaration(frozenset(names), piece)
            at = end
        else:
            one, at = _declaration(text, at, macros)
            yield one


def _names_within(group: str, macros: Mapping[str, str]) -> set[str]:
    """The names that an #if group or a macro declares."""
    lines = [line for line in group.splitlines(keepends=True) if not re.match(r"#\s*(if|el|end)", line)]
    return {name for one in _declarations("".join(lines), macros) for name in one.names}


def _directive_end(text: str, at: int) -> int:
    """The end of a directive, or of all of an #if group."""
    depth = 0
    while True:
        end = text.find("\n", at) + 1 or len(text)
        match = _CONDITIONAL.match(text, at)
        if match:
            depth += -1 if match.group(1) == "endif" else 1
        at = end
        if depth == 0 or at == len(text):
            return at


def _declaration(text: str, start: int, macros: Mapping[str, str]) -> tuple[_Declaration, int]:
    macro = _MACRO_CALL.match(text, start)
    if macro:
        called = macro.group()
        name = called.split("(")[0]
        if name not in macros:
            raise ValueError(f"kernel text: found {called!r}, expected a macro of the text")
        names = _names_within(macros[name], macros)
        return _Declaration(frozenset(names), called + "\n", types=_words(called)), macro.end()
    brace = _find(text, start, "{;")
    if text[brace] == ";":
        end = brace + 1
        return _Declaration(_names(text[start:end]), text[start:end] + "\n"), end
    head = text[start:brace]
    close = _closing(text, brace)
    kind = _TYPE.match(head)
    if kind and "enum" not in head.split():
        is_namespace = head.startswith("namespace")
        end = close + 1 if is_namespace else _find(text, close + 1, ";") + 1
        names = frozenset() if is_namespace or not kind.group(1) else frozenset([kind.group(1)])
        members = list(_declarations(text[brace + 1 : close], macros))
        if not is_namespace:
            members = [one if _is_optional(one) else _always(one) for one in members]
        types = _words(" ".join(_SPECIALISED.findall(head)))
        return _Declaration(names, head + "{\n", members, text[close:end] + "\n", types), end
    is_function = not kind and "=" not in _without_template(head).split("(")[0]
    end = close + 1 if is_function else _find(text, close + 1, ";") + 1
    piece = text[start:end]
    names = set(re.findall(r"(\w+)\s*[=,}]", piece[len(head) :])) if kind else _names(head + "{")
    taken = _PARAMETERS.search(_without_template(head)) if is_function else None
    types = _words(_PARAMETER_NAME.sub("", taken[1])) if taken else frozenset[str]()
    return _Declaration(frozenset(names), piece + "\n", types=types), end


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text))


def _is_optional(member: _Declaration) -> bool:
    """Whether a member may go: fields of a struct stay, since they have places."""
    text = _without_template(member.start)
    is_function = "(" in text and not text.startswith("alignas")
    return bool(member.members) or is_function or text.startswith(("typedef", "using", "enum", "static", "struct"))


def _always(member: _Declaration) -> _Declaration:
    return _Declaration(frozenset(), member.start, member.members, member.end)


def _names(head: str) -> frozenset[str]:
    head = _without_template(head)
    if head.startswith(("static_assert", "extern", "using namespace")):
        return frozenset()
    for pattern in (_TYPEDEF, _USING, _FORWARD, _FUNCTION, _VARIABLE):
        match = pattern.search(head)
        if match:
            return frozenset([match.group(1)])
    return frozenset()


def _without_template(head: str) -> str:
    while _TEMPLATE.match(head):
        depth = 0
        for at, character in enumerate(head):
            depth += (character == "<") - (character == ">")
            if character == ">" and depth == 0:
                head = head[at + 1 :].lstrip()
                break
    return head


def _find(text: str, at: int, ends: str) -> int:
    """The next of `ends` outside parentheses and strings."""
    depth = 0
    for mark in _MARK.finditer(text, at):
        if mark.group() in ends and depth == 0:
            return mark.start()
        depth += (mark.group() == "(") - (mark.group() == ")")
    raise ValueError(f"kernel text: found no {ends!r} after {text[at : at + 60]!r}")


def _closing(text: str, at: int) -> int:
    """The brace that closes the one at `at`."""
    depth = 0
    for mark in _MARK.finditer(text, at):
        depth += (mark.group() == "{") - (mark.group() == "}")
        if depth == 0:
            return mark.start()
    raise ValueError(f"kernel text: found no closing brace after {text[at : at + 60]!r}")
