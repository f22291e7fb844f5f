"""The float types that weights unpack to and scales come in."""

from __future__ import annotations

import mlx.core as mx

from .errors import FormatError

FLOATS = (mx.float32, mx.float16, mx.bfloat16)

# Of formats that are no codes, what they hold.
STORED = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


def is_stored(form: str, dtype: mx.Dtype) -> bool:
    """Whether a format, by name, holds weights as values of that type."""
    return form in STORED and STORED[form] == dtype


def name(dtype: mx.Dtype) -> str:
    """Its key in `kernel_source.TYPES`: "float16" for `mx.float16`."""
    return str(dtype).removeprefix("mlx.core.")


def checked(dtype: mx.Dtype) -> mx.Dtype:
    """`dtype`, one of `FLOATS`."""
    if dtype not in FLOATS:
        raise FormatError(f"dtype: found {dtype}, expected float32, float16 or bfloat16")
    return dtype
