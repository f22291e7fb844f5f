"""The metadata of one architecture in a GGUF file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import FormatError
from ..loading import GGUFFile


class Keys:
    """The metadata whose keys begin with the architecture's name.

    Attributes:
        file: the file's name.
        tensors: the names of its tensors.
    """

    def __init__(self, file: GGUFFile):
        self.file, self.tensors = file.path.name, file.tensors.keys()
        self._metadata, self._prefix = file.metadata, file.metadata["general.architecture"]

    def fail(self, key: str, found: Any, expected: str) -> FormatError:
        return FormatError(f"{self.file}: {self._prefix}.{key}: found {found!r}, expected {expected}")

    def get(self, key: str, default: Any, kind: type = int) -> Any:
        value = self._metadata.get(f"{self._prefix}.{key}", default)
        if value is not default and type(value) is not kind:
            raise self.fail(key, value, kind.__name__)
        return value

    def need(self, key: str, kind: type = int) -> Any:
        value = self.get(key, None, kind)
        if value is None:
            raise self.fail(key, None, kind.__name__)
        if kind is int and value <= 0:
            raise self.fail(key, value, "a positive integer")
        return value

    def layers(self, key: str, count: int) -> list[Any] | None:
        """A value a layer, or None where the file has one value or none."""
        value = self._metadata.get(f"{self._prefix}.{key}")
        if not isinstance(value, Collection) or isinstance(value, str):
            return None
        if len(value) != count:
            raise self.fail(key, len(value), f"{count} values, one a layer")
        return [item.item() if hasattr(item, "item") else item for item in value]
