"""A tensor that crosses from torch to MLX, or back. Bytes: read and written, as by a copy."""

from __future__ import annotations

from ...diagnostics.bounds import Allowance
from ...diagnostics.compare import F32, same_bits
from ..data import SIZES, Data
from . import Case

PROVIDERS = ("crossing",)
CHECK = "every bit"
FRESH = True


def data(case: Case) -> Data:
    import torch

    from ...bridges.doctor import device

    made = torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    return Data(tensor=made.to(getattr(torch, case.dtype)).to(device()))


def nbytes(case: Case, data: Data) -> int:
    return 2 * case.shape[0] * case.shape[1] * SIZES[case.dtype]


def result(case: Case) -> tuple[int, int]:
    return case.shape


def check(case: Case, data: Data, turn: int, found: F32, allowance: Allowance) -> str:
    """Every bit."""
    return str(same_bits(found, data.tensor.float().cpu().numpy()))
