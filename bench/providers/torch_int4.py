"""Torch's own int4 product on a CPU, of the same weights in its layout: a scale and a zero a group, in x's type."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import torch

from ...diagnostics.bounds import UNIT, Allowance
from ..cases import Case
from ..data import Data
from . import Absent, Provider, Ready
from .torch_plain import CODES, SHIFTS, SHIFTS_OF, synchronised, tensors, to_torch

MIDDLE = 8  # a code that stands for zero; `zero` is added
COLUMNS = 32  # outputs in a tile


class TorchInt4:
    """`torch.ops.aten._weight_int4pack_mm_for_cpu`."""

    name, device = "torch int4 cpu", "cpu"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.case != "linear" or case.format not in CODES or case.has_g_idx or case.shape[0] % COLUMNS:
            return None
        dtype, size = getattr(torch, case.dtype), data.weights[0].matrix.group_size
        packed: list[tuple[torch.Tensor, torch.Tensor]] = []
        for weight in data.weights:
            arrays = tensors(weight, "cpu")
            codes, zeros = CODES[case.format](arrays, SHIFTS_OF.get(case.format, SHIFTS))
            words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.T.contiguous(), 1)
            scales = arrays["scales"].float()
            packed.append((words, torch.stack([scales, (MIDDLE - zeros) * scales], -1).to(dtype)))
        xs = [to_torch(x, "cpu") for x in data.xs]

        def call(i: int) -> torch.Tensor:
            words, scales_and_zeros = packed[i % len(packed)]
            return torch.ops.aten._weight_int4pack_mm_for_cpu(xs[i % len(xs)], words, size, scales_and_zeros)

        def numpy(result: torch.Tensor) -> np.ndarray:
            return result.float().numpy()

        # A scale, a zero and their sum are rounded.
        unit = UNIT[getattr(mx, case.dtype)]
        return Ready(call, synchronised("cpu"), numpy, Allowance(3 * unit, why=f"scales, zeros in {case.dtype}"))


def found() -> list[Provider]:
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        raise Absent(f"torch {torch.__version__} has no _weight_int4pack_mm_for_cpu")
    return [TorchInt4()]
