"""Who takes part: one small file each, with a `found()` that gives its providers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ...diagnostics.bounds import EXACT, Allowance
from ..cases import Case
from ..data import Data

FILES = (
    "ours", "torch_plain", "gguf_py", "mlx_own", "dense", "torch_dense", "torch_int4", "ggml", "gptqmodel", "bridge",
    "crossing",
)  # fmt: skip


class Absent(Exception):
    """Why a provider does not take part here."""


class LeftOut(Exception):
    """Why a provider sits a case out that is its own."""


@dataclass(frozen=True)
class Ready:
    """A provider with the inputs of a case in the form that it wants.

    Attributes:
        call: begins the work on the i-th inputs.
        wait: returns when all of the results are in memory.
        numpy: a result as float32, dequantized weights as [out, in].
        allowance: what it may be off by, and why.
    """

    call: Callable[[int], Any]
    wait: Callable[[list[Any]], object]
    numpy: Callable[[Any], np.ndarray]
    allowance: Allowance = EXACT


class Provider(Protocol):
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
        """Ready for a case; None where it is none of this provider's.

        Raises:
            LeftOut: it would take too long.
        """
        ...


def found(files: tuple[str, ...] = FILES) -> tuple[list[Provider], dict[str, str]]:
    """The providers that work here, and why others do not, by file."""
    here: list[Provider] = []
    absent: dict[str, str] = {}
    for name in files:
        try:
            here += import_module(f".{name}", __name__).found()
        except (Absent, ImportError) as error:
            absent[name.replace("_", " ")] = str(error)
    return here, absent


def takes_part(provider: Provider, files: tuple[str, ...]) -> bool:
    """Whether a provider, or a class that it extends, is defined in one of these files."""
    return any(kind.__module__.rpartition(".")[2] in files for kind in type(provider).__mro__)


def torch_devices() -> Iterator[str]:
    """Where torch can work, the fastest first."""
    import torch

    if torch.cuda.is_available():
        yield "cuda"
    if torch.backends.mps.is_available():
        yield "mps"
    yield "cpu"
