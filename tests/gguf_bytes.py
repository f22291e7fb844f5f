"""Small GGUF files, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(
    tensors: Mapping[str, tuple[int, Sequence[int], bytes]], metadata: Mapping[str, str | Sequence[str]] | None = None
) -> bytes:
    """A file of version 3.

    Args:
        tensors: by name, ggml's number of the type, the shape (longest stride first) and the bytes.
        metadata: strings and lists of strings.
    """
    keys = b""
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            keys += _string(key) + struct.pack("<I", 8) + _string(value)
        else:
            keys += _string(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    rows, data = b"", b""
    for name, (kind, shape, content) in tensors.items():
        rows += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += content.ljust(-(-len(content) // 32) * 32, b"\0")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata or {})) + keys + rows
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + data
