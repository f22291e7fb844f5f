"""The declarations of a kernel's text, and those of them that a kernel uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .kernel_text import DEFINE, MACRO, WORD

_MARK = re.compile(r'"(?:\\.|[^"\\])*"|[(){};]')
_CONDITIONAL = re.compile(r"#\s*(if|ifdef|ifndef|endif)\b")
_TYPE = re.compile(r"(?:template\s*<.*>\s*)?(?:struct|union|enum|namespace)\b\s*([A-Za-z_]\w*)?[^()=]*$", re.DOTALL)
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


def used(text: str, root: str) -> str:
    """The declarations of `text` that `root` uses, directly or through others.

    A declaration is used where its name is written. A function or a specialisation also needs every type of the text
    that its parameters or arguments name to be written in what is used. A text uses no macro's name twice.

    Args:
        text: C++ at namespace level, without comments.
        root: code that stays, and the types of its arrays.
    """
    declarations = list(_declarations(text, {name: body for name, _, body in MACRO.findall(text)}))
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
    """The declaration that begins at `start`, and where it ends."""
    macro = _MACRO_CALL.match(text, start)
    if macro:
        return _macro_call(macro.group(), macros), macro.end()
    brace = _find(text, start, "{;")
    head = text[start:brace]
    if text[brace] == ";":
        return _Declaration(_names(head + ";"), head + ";\n"), brace + 1
    close = _closing(text, brace)
    kind = _TYPE.match(head)
    is_function = not kind and "=" not in _without_template(head).split("(")[0]
    ends_there = is_function or head.startswith("namespace")
    end = close + 1 if ends_there else _find(text, close + 1, ";") + 1
    piece = text[start:end] + "\n"
    if not kind:
        taken = _PARAMETERS.search(_without_template(head)) if is_function else None
        types = _words(_PARAMETER_NAME.sub("", taken[1])) if taken else frozenset[str]()
        return _Declaration(_names(head + "{"), piece, types=types), end
    if "enum" in head.split():
        return _Declaration(frozenset(re.findall(r"(\w+)\s*[=,}]", piece[len(head) :])), piece), end
    members = list(_declarations(text[brace + 1 : close], macros))
    return _with_members(head, kind.group(1), members, text[close:end] + "\n"), end


def _macro_call(called: str, macros: Mapping[str, str]) -> _Declaration:
    name = called.split("(")[0]
    if name not in macros:
        raise ValueError(f"kernel text: found {called!r}, expected a macro of the text")
    return _Declaration(frozenset(_names_within(macros[name], macros)), called + "\n", types=_words(called))


def _with_members(head: str, name: str | None, members: list[_Declaration], end: str) -> _Declaration:
    """A namespace, a struct or a union."""
    types = _words(" ".join(_SPECIALISED.findall(head)))
    names: frozenset[str] = frozenset()
    if not head.startswith("namespace"):
        names = frozenset([name] if name else [])
        members = [one if _is_optional(one) else _always(one) for one in members]
    return _Declaration(names, head + "{\n", members, end, types)


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
