"""Who takes part: one small file each, with a `found()` that gives its contestants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ..cases import Case
from ..data import Data

FILES = ("ours", "torch_plain", "gguf_py", "mlx_own", "dense", "torch_dense", "ggml", "gptqmodel", "bridge")

# Half the distance to the next number, relative to the number.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


class Absent(Exception):
    """Why a contestant does not take part here."""


class LeftOut(Exception):
    """Why a contestant sits a case out that is its own."""


@dataclass(frozen=True)
class Error:
    """What a contestant may be off by, before its result is rounded; nothing, unless it says why.

    Attributes:
        weight: of each weight, as a share of the largest.
        x: of each element of x, as a share of the largest.
        why: what it rounds.
    """

    weight: float = 0.0
    x: float = 0.0
    why: str = ""


EXACT = Error()


@dataclass(frozen=True)
class Ready:
    """A contestant with the inputs of a case in the form that it wants.

    Attributes:
        call: begins the work on the i-th inputs.
        wait: returns when all of the results are in memory.
        numpy: a result as float32, unpacked weights as [out, in].
    """

    call: Callable[[int], Any]
    wait: Callable[[list[Any]], object]
    numpy: Callable[[Any], np.ndarray]
    error: Error = EXACT


class Contestant(Protocol):
    """One way to do the work.

    Attributes:
        name: what the tables print.
        device: where it runs: "cpu", "cuda", "metal", "mps".
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    def prepare(self, case: Case, data: Data) -> Ready | None:
        """Ready for a case; None where it is none of this contestant's.

        Raises:
            LeftOut: it would take too long.
        """
        ...


def found(files: tuple[str, ...] = FILES) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that work here, and why others do not, by file."""
    here: list[Contestant] = []
    absent: dict[str, str] = {}
    for name in files:
        try:
            here += import_module(f".{name}", __name__).found()
        except (Absent, ImportError) as error:
            absent[name.replace("_", " ")] = str(error)
    return here, absent


def done(results: list[Any]) -> None:
    """Nothing to wait for: the call did the work."""


def torch_devices() -> Iterator[str]:
    """Where torch can work, the fastest first."""
    import torch

    if torch.cuda.is_available():
        yield "cuda"
    if torch.backends.mps.is_available():
        yield "mps"
    yield "cpu"
