"""What MLX is given for a product: kernels to launch, and the bytes of their program texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

# Primitives that launch no kernel: other shapes and strides of the same memory.
VIEWS = (
    "AsStrided", "Broadcast", "BroadcastAxes", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split",
    "Squeeze", "StopGradient", "Transpose", "Unflatten", "View",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one call gives MLX to run.

    Attributes:
        kernels: names of the primitives that launch a kernel, in order: casts, sums and fills count.
        texts: bytes of the text of each custom kernel, which MLX hashes at every launch.
    """

    kernels: tuple[str, ...]
    texts: tuple[int, ...]

    @property
    def launches(self) -> int:
        """Kernels that are launched."""
        return len(self.kernels)

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts."""
        return sum(self.texts)


def cost(call: Callable[[], mx.array]) -> Cost:
    """The cost of a call that builds a graph on arrays that have values, such as `lambda: weight.linear(x)`.

    The call is made twice and the second one counts, so that what is built once is left out. Nothing is run:
    Metal's kernels are counted on a machine without Metal.
    """
    nodes: list[dict[str, Any]] = []

    def second() -> mx.array:
        call()
        return call()

    mx.export_function(nodes.append, second)
    found = [node for node in nodes if node["type"] == "primitive" and node["name"] not in VIEWS]
    # The strings of a custom kernel are its name and its text.
    texts = (_text_bytes(node["arguments"]) for node in found if node["name"] == "CustomKernel")
    return Cost(tuple(node["name"] for node in found), tuple(texts))


def _text_bytes(arguments: Sequence[Any]) -> int:
    return max(len(argument) for argument in arguments if isinstance(argument, str))
