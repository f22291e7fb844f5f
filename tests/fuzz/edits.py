"""Damage: small edits of good files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

# Numbers that headers are wrong by, and words that their texts are made of.
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 31, 32, 33, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
WORDS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"-1", b"0", b"1e9", b"NaN", b"4294967296", b"\xff"),
    *(b"[[1]]", b", 1", b"[1, ", b"{}", b"[]", b'""', b"\\u0000", b".*", b"(a+)+$", b"re:", b"..", b"/", b"GGUF"),
    *(b"I8", b"U8", b"I64", b"F64", b"F8_E4M3", b"F8_E8M0", b"F32", b"BF16", b"BOOL", b"\0", b"g_idx", b"gptq", b"awq"),
)
SEPARATOR = b"\n--\n"  # between the parts of a folder
LONGEST = 4096  # bytes in which words are looked for


class Edit(NamedTuple):
    """What is done, where (0 to 1), to how many bytes, and with which."""

    kind: str
    where: float
    size: int
    content: bytes


# Values that JSON is wrong by.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, 2, 3, 5, 7, 8, 16, 64, -1, -(2**31), 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 1e300, "", "x"),
    *([], [0], [1], [2, 3], [[1]], {}, {"a": 1}, "gptq", "awq", "re:.*", "re:(", "a\x00b", "../x", "Linear", ".*"),
    *("I32", "U32", "I8", "U8", "I16", "I64", "F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E8M0", "BOOL", "C64"),
)
KINDS = ("set", "insert", "delete", "copy", "cut", "word", "json")
TOKEN = re.compile(rb"[\w.]+|[^\w.]")


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The data after all edits."""
    for kind, where, size, content in edits:
        at = int(where * len(data))
        match kind:
            case "set":
                data = data[:at] + content + data[at + len(content) :]
            case "insert":
                data = data[:at] + content + data[at:]
            case "delete":
                data = data[:at] + data[at + size :]
            case "copy":
                data = data[:at] + data[at : at + size] + data[at:]
            case "cut":
                data = data[:at]
            case "word" if data:  # one word of the text becomes another
                words = list(TOKEN.finditer(data, 0, LONGEST))
                old, new = words[int(where * len(words))], words[(size * 7919 + sum(content)) % len(words)]
                data = data[: old.start()] + new[0] + data[old.end() :]
            case "json":
                parts = data.split(SEPARATOR)
                parts[size % len(parts)] = _changed(parts[size % len(parts)], where, sum(content))
                data = SEPARATOR.join(parts)
    return data


def _changed(text: bytes, where: float, choice: int) -> bytes:
    """JSON with one of its values gone, replaced, or put in the place of another."""
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places: list[tuple[Any, Any]] = []
    todo = [root]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        todo += [node[key] for key in keys]
    if places:
        node, key = places[int(where * len(places))]
        other, name = places[choice % len(places)]
        match choice % 4:
            case 0:
                node[key] = copy.deepcopy(other[name])
            case 1:
                del node[key]
            case _:
                node[key] = VALUES[choice // 4 % len(VALUES)]
    return json.dumps(root).encode()


def some(random: Random) -> list[Edit]:
    """One to four edits."""
    return [_one(random) for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4)))]


def _one(random: Random) -> Edit:
    kind = random.choices(KINDS, (12, 4, 3, 3, 1, 6, 8))[0]
    size = random.choice((1, 1, 2, 4, 8, 16, 64)) if kind not in ("word", "json") else random.randrange(1000)
    match random.randrange(4):
        case 0:
            content = random.choice(WORDS)
        case 1:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(NUMBERS) % 2 ** (8 * width)
            content = number.to_bytes(width, random.choice(("little", "little", "big")))
        case 2:
            content = random.choice(b"0123456789").to_bytes(1, "little")
        case _:
            content = random.randbytes(random.choice((1, 1, 1, 2, 4)))
    return Edit(kind, random.random(), size, content)
