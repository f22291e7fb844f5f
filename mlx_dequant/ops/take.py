"""Rows of a quantized weight."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import backends, dtypes
from .operand import Weight, check_ids, check_matrix, matrix_of
from .replay import check_untraced
from .transforms import has_value, is_exporting, only


def take(weight: Weight, ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
    """Rows of the [out, in] matrix, as an embedding looks them up; exact to the bit.

    On a GPU, `mx.vmap` raises a ValueError, as for `linear`.

    Args:
        weight: a matrix.
        ids: integers of any shape; negative ones count from the end.
        dtype: float32, float16 or bfloat16; the weight's own by default.

    Returns:
        [*ids.shape, in].

    Raises:
        IndexError: an id is out of range, on the host and the reference. On a GPU such a row is NaN, and so it is
            on the host where ids have no values yet.
    """
    matrix = matrix_of(weight)
    check_matrix(weight)
    check_untraced("it looks up rows of a weight")
    row_dtype: mx.Dtype = dtypes.checked(dtype or weight.dtype)
    check_ids(ids)
    axis = int(matrix.layout == "KN")
    backends.check_ids(ids, weight.out_features)

    def look_up(ids: mx.array) -> mx.array:
        if backends.is_lazy() or has_value(ids):
            rows = backends.gather(matrix, ids.reshape(-1), row_dtype, axis)
        else:
            rows = by_dense(ids.reshape(-1))
        return rows.reshape(*ids.shape, weight.in_features)

    def by_dense(ids: mx.array) -> mx.array:
        dense = backends.dequantize(matrix, row_dtype)
        return (dense.T if axis else dense)[ids]

    if not backends.on_gpu() and is_exporting():
        return by_dense(ids)

    rule: Any = mx.custom_function(look_up)
    rule.vmap(lambda inputs, axes: (take(weight, mx.moveaxis(only(inputs), only(axes), 0), row_dtype), 0))
    return rule(ids)
