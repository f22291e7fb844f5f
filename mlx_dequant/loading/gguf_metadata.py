"""The keys of a GGUF file as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .gguf_header import Cursor, Field


class Metadata(Mapping[str, Any]):
    """The keys of a file. Each value is parsed on first access, and cached."""

    def __init__(self, cursor: Cursor, count: int):
        self._data, self._name, self._order = cursor.data, cursor.name, cursor.order
        self._fields: dict[str, Field] = {}
        self._values: dict[str, Any] = {}
        for index in range(count):
            key = cursor.short_string(f"key {index}")
            if key in self._fields:
                raise cursor.fail(f"key {key!r}: found twice")
            self._fields[key] = cursor.field(key)

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            field = self._fields[key]
            self._data.check_size()
            self._values[key] = Cursor(self._data, self._name, field.start, self._order).value(field, key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
