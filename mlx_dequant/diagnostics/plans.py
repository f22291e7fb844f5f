"""The dispatcher's tables and plans as text, for `mlx-dequant doctor --plans`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .. import dispatch
from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..fast_divmod import grouping
from ..registry import FAMILIES, Format
from ..tuning import Device, tuning

ROWS = (1, 8, 16, 64, 512, 2048)
SHAPE = (4096, 4096)  # outputs and inputs


def sample(form: Format, has_g_idx: bool = False) -> EncodedMatrix:
    """A matrix of a format without its arrays, in groups of 128: all that a plan asks of one."""
    N, K = SHAPE
    rows, columns = (K, N) if FAMILIES[form.family].layout == "KN" else (N, K)
    params = {"blocks_per_row": K // form.weights} if form.weights else grouping(128, K // 128)
    return EncodedMatrix({}, form, rows, columns, "float16", params, has_g_idx)


def devices(asked: str) -> list[Device]:
    """The devices that "here", "metal", "metal:17", "cuda" or "cuda:90" means.

    Without a GPU, "here" means all that have a column.

    Raises:
        FormatError: there is no such device.
    """
    if asked == "here":
        from ..backends import GPUS, available_backends
        from ..backends.gpu.launch import device

        found = [device(name) for name in available_backends() if name in GPUS]
        return found or [Device("metal"), Device("metal", 17), Device("cuda", 80), Device("cuda", 90)]
    known = {"metal": Device("metal"), "cuda": Device("cuda", 90)}
    match = re.fullmatch(r"(metal|cuda):(\d+)", asked)
    if match is None and asked not in known:
        raise FormatError(f"plans: found {asked!r}, expected metal, cuda, metal:17 or cuda:90")
    return [Device(match[1], int(match[2])) if match else known[asked]]


def title(device: Device) -> str:
    return f"{device.platform}:{device.generation}" if device.generation else device.platform


def table(device: Device) -> Iterator[str]:
    """The rows of a device's table, the first that holds first."""
    for row in tuning(device).routes:
        when = ", ".join(sorted(row.when)) or "any"
        yield f"from {row.M:4} rows of x | {when:16} | {row.name:20} | {row.reason}"


def plans(device: Device, form: Format, dtype: str = "float16") -> Iterator[str]:
    """What a linear layer of a format launches, by rows of x."""
    matrix = sample(form)
    operation = dispatch.MATMUL if matrix.layout == "KN" else dispatch.MATMUL_T
    for M in ROWS:
        plan = dispatch.plan(device, matrix, M, dtype, operation)
        launches = [launch for launch in (plan.before, *plan.launches) if launch]
        kernels = " + ".join(f"{one.spec.name}{list(one.spec.template)} x {one.threadgroups}" for one in launches)
        parts = f"{len(plan.regions)} part(s) of the matrix, then MLX's matmul" if plan.regions else ""
        yield f"{form.title} {M:5} rows | {plan.route:20} | {kernels or parts or 'MLX matmul'}"
