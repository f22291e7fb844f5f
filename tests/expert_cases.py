"""Stacks of experts of ordinary numbers, and checks of products with them."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
from product_cases import FORMATS, SIZES, act_order, exact, numbers, wide
from support import FIXTURES, gguf_fixture

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.diagnostics import bounds, compare, sample_weights

EXPERTS = 5

# By name: experts of M rows of x with k choices each.
CHOICES = {
    "any": lambda rng, M, k: rng.integers(0, EXPERTS, (M, k)),
    "from the end": lambda rng, M, k: rng.integers(-EXPERTS, EXPERTS, (M, k)),
    "each once": lambda rng, M, k: np.stack([rng.permutation(EXPERTS)[:k] for _ in range(M)]),
    "some missing": lambda rng, M, k: rng.choice([1, EXPERTS - 1], (M, k)),
    "all equal": lambda rng, M, k: np.full((M, k), 3),
    "one has most": lambda rng, M, k: np.where(rng.random((M, k)) < 0.7, 2, rng.integers(0, EXPERTS, (M, k))),
    "sorted": lambda rng, M, k: np.sort(rng.integers(0, EXPERTS, M * k)).reshape(M, k),
}


@cache
def experts(name: str, size: tuple[int, int] = SIZES[0]) -> tuple[mxd.QuantizedWeight, np.ndarray]:
    """A stack of a format and its exact weights [experts, out, in]; with act-order as `product_cases.weight`.

    Each expert has another order of inputs.
    """
    outputs, inputs = size
    form = FORMATS[name]
    rng = np.random.default_rng(list(FORMATS).index(name))
    if form.family != "gguf":
        options = act_order(name, size)
        each = [sample_weights.groups(name, rng, inputs, outputs, plain=True, **options) for _ in range(EXPERTS)]
        return mxd.stack(each), np.stack([exact(one) for one in each])
    if (FIXTURES / "gguf" / f"{name}.npz").exists():
        pool = gguf_fixture(name)["real"][0].reshape(-1, form.bytes)
    else:
        pool = rng.normal(size=(4096, 1)).astype(np.float32).view(np.uint8)
    count = -(-inputs // form.weights)
    blocks = pool[rng.integers(0, len(pool), (EXPERTS, outputs, count))].reshape(EXPERTS, outputs, -1)
    return mxd.GGUFWeight(blocks, name), np.stack([exact(mxd.GGUFWeight(one, name)) for one in blocks])


def chosen(kind: str, M: int, k: int, seed: int = 0) -> np.ndarray:
    return CHOICES[kind](np.random.default_rng(seed), M, k).astype(np.int32)


def check_experts(
    name: str, dtype: mx.Dtype, ids: np.ndarray, size: tuple[int, int] = SIZES[0], gradient: bool = True
) -> None:
    """`gather_linear` of rows of x, and of a row for each choice, and their gradients, are as near as linear's."""
    packed, dense = experts(name, size)
    rng = np.random.default_rng(ids.size)
    rises = bool((np.diff(ids.reshape(-1)) >= 0).all())
    cotangent = numbers(rng, (*ids.shape, packed.out_features), dtype)
    for shape in (ids.shape[:-1], ids.shape) if ids.shape[1] < 3 else (ids.shape[:-1],):
        x = numbers(rng, (*shape, packed.in_features), dtype)

        def call(x: mx.array) -> mx.array:
            return mxd.gather_linear(x, packed, mx.array(ids), sorted=rises)

        what = f"{packed} {dtype} {ids.shape} x {x.shape}"
        rows = np.broadcast_to(wide(x if x.ndim == 3 else x[:, None]), (*ids.shape, packed.in_features))
        rounds = bounds.rounds_weights(backends.current_backend(), x.size // packed.in_features, packed.matrix)
        check_pairs(call(x), rows, ids, dense.swapaxes(1, 2), dtype, what, rounds)
        if not gradient:
            continue
        found = mx.vjp(call, [x], [cotangent])[1][0]
        if x.ndim == 3:
            check_pairs(found, wide(cotangent), ids, dense, dtype, f"gradient {what}", rounds)
        else:
            check_sums(found, wide(cotangent), ids, dense, dtype, f"gradient {what}", rounds and ids.shape[1] == 1)


def check_pairs(
    found: mx.array,
    rows: np.ndarray,
    ids: np.ndarray,
    dense: np.ndarray,
    dtype: mx.Dtype,
    what: str,
    rounds: bool = False,
) -> None:
    """`found` [M, k, n] is rows [M, k, K] times the experts' dense [experts, K, n]; `rounds` as in `matmul_bound`."""
    assert (found.dtype, found.shape) == (dtype, (*ids.shape, dense.shape[2]))
    values = wide(found)
    for number in np.unique(ids):
        at = ids == number
        result = compare.within(values[at], *bounds.matmul_bound(rows[at], dense[number], dtype, rounds))
        assert not result.wrong, f"{what}, expert {number}: {result}"


def check_sums(
    found: mx.array,
    rows: np.ndarray,
    ids: np.ndarray,
    dense: np.ndarray,
    dtype: mx.Dtype,
    what: str,
    rounds: bool = False,
) -> None:
    """`found` [M, n] is the sum over k of the same."""
    assert (found.dtype, found.shape) == (dtype, (len(ids), dense.shape[2]))
    values = wide(found)
    for at, numbers_of_row in enumerate(ids):
        of_row = np.concatenate([dense[number] for number in numbers_of_row])
        result = compare.within(
            values[at : at + 1], *bounds.matmul_bound(rows[at].reshape(1, -1), of_row, dtype, rounds)
        )
        assert not result.wrong, f"{what}, row {at}: {result}"
