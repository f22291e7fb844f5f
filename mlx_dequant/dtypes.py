"""The float types of dequantized weights and of scales, by name: "float16" for `mx.float16`."""

from __future__ import annotations

from typing import Any

from .errors import FormatError

FLOATS = ("float32", "float16", "bfloat16")


def name(dtype: Any) -> str:
    """The name of an MLX type."""
    return str(dtype).removeprefix("mlx.core.")


def of(name: str) -> Any:
    """The MLX type of a name."""
    import mlx.core as mx

    return getattr(mx, name)


def is_float(dtype: Any) -> bool:
    """Whether an MLX type is one of `FLOATS`."""
    return type(dtype).__module__.startswith("mlx") and name(dtype) in FLOATS


def checked(dtype: Any) -> Any:
    """`dtype`, checked to be one of `FLOATS`."""
    if not is_float(dtype):
        raise FormatError(f"dtype: found {dtype}, expected float32, float16 or bfloat16")
    return dtype
