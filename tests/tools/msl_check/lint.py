"""What Metal rejects and clang's OpenCL front end lets through, found in the syntax tree.

The tree holds each template twice: as written, and as every call made it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from clang import cindex
from clang.cindex import Cursor, TranslationUnit, Type, TypeKind, conf
from clang.cindex import CursorKind as Kind

from .front_end import metal_functions

_CONTINUE, _RECURSE = 1, 2  # clang's answers of a visitor
UNQUALIFIED = (0, 5)  # no address space, and OpenCL's generic one

_FORBIDDEN = {
    Kind.GOTO_STMT: "goto",
    Kind.INDIRECT_GOTO_STMT: "goto",
    Kind.LABEL_STMT: "a label",
    Kind.LAMBDA_EXPR: "a lambda",
    Kind.CXX_NEW_EXPR: "new",
    Kind.CXX_DELETE_EXPR: "delete",
    Kind.CXX_THROW_EXPR: "throw",
    Kind.CXX_TRY_STMT: "try",
    Kind.CXX_CATCH_STMT: "catch",
    Kind.CXX_TYPEID_EXPR: "typeid",
    Kind.CXX_DYNAMIC_CAST_EXPR: "dynamic_cast",
    Kind.ASM_STMT: "asm",
    Kind.CXX_BASE_SPECIFIER: "a derived class",
}
_TYPED = frozenset(
    (
        Kind.VAR_DECL,
        Kind.PARM_DECL,
        Kind.FIELD_DECL,
        Kind.TYPEDEF_DECL,
        Kind.TYPE_ALIAS_DECL,
        Kind.CSTYLE_CAST_EXPR,
        Kind.CXX_FUNCTIONAL_CAST_EXPR,
        Kind.CXX_STATIC_CAST_EXPR,
        Kind.CXX_REINTERPRET_CAST_EXPR,
        Kind.CXX_CONST_CAST_EXPR,
    )
)
_FUNCTIONS = frozenset((Kind.FUNCTION_DECL, Kind.FUNCTION_TEMPLATE, Kind.CXX_METHOD, Kind.CONSTRUCTOR))
_SPACES = {"device", "constant", "threadgroup", "thread"}
_POINTERS = (TypeKind.POINTER, TypeKind.LVALUEREFERENCE, TypeKind.RVALUEREFERENCE)
_ARRAYS = (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY, TypeKind.DEPENDENTSIZEDARRAY)
_STRUCTS = frozenset((Kind.STRUCT_DECL, Kind.CLASS_DECL, Kind.CLASS_TEMPLATE))
_NAMED = frozenset((Kind.VAR_DECL, Kind.PARM_DECL, Kind.FIELD_DECL, Kind.STRUCT_DECL, Kind.CLASS_TEMPLATE)) | _FUNCTIONS
_LEAVES = frozenset(
    (Kind.INTEGER_LITERAL, Kind.FLOATING_LITERAL, Kind.TYPE_REF, Kind.NAMESPACE_REF, Kind.DECL_REF_EXPR)
)
# The kinds that `_faults` finds something in.
_EXAMINED = frozenset(_FORBIDDEN) | _TYPED | _NAMED | {Kind.DECL_REF_EXPR}
_RESERVED = {"vertex", "fragment", "sampler", "visible", "object", "mesh", "stitchable", "intersection"}


class Node(NamedTuple):
    """A place in a program's own part of the tree, and the function around it."""

    cursor: Cursor
    kind: Kind
    function: str
    outermost: bool = False


def nodes(unit: TranslationUnit) -> list[Node]:
    """Our part of the tree; without the entries of tables, and the shim's templates that our calls made."""
    found: list[Node] = []

    def add_below(cursor: Cursor, function: str) -> None:
        # clang walks the tree itself: a list of children for each node takes several times as long.
        def visit(child: Cursor, _parent: Cursor, _data: object) -> int:
            child._tu = unit
            kind = child.kind
            found.append(Node(child, kind, function))
            if kind in _FUNCTIONS:
                add_below(child, child.get_usr())
                return _CONTINUE
            is_table = kind == Kind.VAR_DECL and not function
            return _CONTINUE if is_table or kind in _LEAVES else _RECURSE

        conf.lib.clang_visitChildren(cursor, cindex.callbacks["cursor_visit"](visit), None)

    for cursor in unit.cursor.get_children():
        if cursor.location.file.name != unit.spelling:
            continue
        found.append(Node(cursor, cursor.kind, "", True))
        if cursor.kind != Kind.VAR_DECL:
            add_below(cursor, cursor.get_usr() if cursor.kind in _FUNCTIONS else "")
    return found


def lint(tree: list[Node], unit: TranslationUnit) -> Iterator[tuple[int, str]]:
    """The faults, each with its line."""
    calls: dict[str, set[str]] = {}
    functions: dict[str, Cursor] = {}
    for node in tree:
        if node.kind in _EXAMINED:
            for fault in _faults(node.cursor, node.kind):
                yield node.cursor.location.line, fault
        if node.outermost and node.cursor.semantic_parent == unit.cursor and not _may_be_global(node):
            name = node.cursor.spelling or node.kind.name
            yield node.cursor.location.line, f"{name} is outside namespace mlx_dequant"
        if node.kind in _FUNCTIONS:
            functions[node.cursor.get_usr()] = node.cursor
        if node.kind == Kind.CALL_EXPR and node.cursor.referenced:
            calls.setdefault(node.function, set()).add(node.cursor.referenced.get_usr())
    for name, function in functions.items():
        if _reaches(calls, name, name):
            yield function.location.line, f"{function.spelling} calls itself"


def _may_be_global(node: Node) -> bool:
    """MLX and Metal name things in the global namespace; of ours, the kernel alone is there."""
    if node.kind == Kind.NAMESPACE:
        return node.cursor.spelling == "mlx_dequant"
    return node.kind == Kind.FUNCTION_DECL and node.cursor.spelling.startswith("custom_kernel_")


def _faults(cursor: Cursor, kind: Kind) -> Iterator[str]:
    if kind in _FORBIDDEN:
        yield f"{_FORBIDDEN[kind]} is not Metal"
    if kind in _TYPED:
        alias = kind in (Kind.TYPEDEF_DECL, Kind.TYPE_ALIAS_DECL)
        type_ = cursor.underlying_typedef_type if alias else cursor.type
        if _loose(type_) or (kind == Kind.VAR_DECL and type_.kind in _POINTERS and _auto(cursor)):
            yield f"{cursor.spelling or 'a cast'}: {type_.spelling} has no address space"
    if kind in _FUNCTIONS and kind != Kind.CONSTRUCTOR:
        if _loose(cursor.result_type):
            yield f"{cursor.spelling}: its result {cursor.result_type.spelling} has no address space"
        method = cursor.semantic_parent and cursor.semantic_parent.kind in _STRUCTS
        if method and not cursor.is_static_method() and cursor.type.spelling.endswith("__generic"):
            yield f"{cursor.spelling}: the method's own address space is missing"
        if cursor.is_virtual_method():
            yield f"{cursor.spelling} is virtual"
        if cursor.spelling in metal_functions():
            yield f"{cursor.spelling} hides Metal's function"
    if kind == Kind.CSTYLE_CAST_EXPR and cursor.type.get_canonical().spelling.startswith("metal::vec<"):
        yield f"a C-style cast to {cursor.type.spelling}: write {cursor.type.spelling}(...)"
    if kind == Kind.VAR_DECL and cursor.storage_class.name == "STATIC" and cursor.semantic_parent.kind in _FUNCTIONS:
        yield f"{cursor.spelling} is a static local"
    if kind in _NAMED and cursor.spelling in _RESERVED:
        yield f"{cursor.spelling} is a word of Metal's"
    if kind == Kind.DECL_REF_EXPR and cursor.spelling.startswith("__builtin"):
        yield f"{cursor.spelling} is not Metal"


def _auto(variable: Cursor) -> bool:
    """Whether `auto*` or `auto&` left the address space to be guessed."""
    tokens = (token.spelling for token in variable.get_tokens())
    words = set(itertools.takewhile(lambda word: word != variable.spelling, tokens))
    return "auto" in words and bool({"*", "&"} & words) and not _SPACES & words


def _loose(type_: Type) -> bool:
    """Whether a pointer or reference, at any depth, does not say where it points."""
    while type_.kind in (*_POINTERS, *_ARRAYS):
        if type_.kind in _ARRAYS:
            type_ = type_.element_type.get_canonical()
            continue
        type_ = type_.get_pointee()
        if type_.get_address_space() in UNQUALIFIED:
            return True
        type_ = type_.get_canonical()
    return False


def _reaches(calls: dict[str, set[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for called in calls.get(waiting.pop(), ()):
            if called == goal:
                return True
            if called not in seen:
                seen.add(called)
                waiting.append(called)
    return False
