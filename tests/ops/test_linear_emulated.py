"""The kernels of matmuls and look-ups, executed as Metal would run them, in every format."""

from unittest.mock import patch

import emulator
import mlx.core as mx
import numpy as np
import pytest
from devices import exact_matmul, permuted, routed, tuned
from product_cases import (
    FORMATS,
    SIZES,
    TILED,
    TRAITS,
    check_products,
    check_single_inputs,
    exact,
    shuffled,
    weight,
)
from support import DTYPES, assert_same, rounded

from mlx_dequant import dispatch, dtypes, launches
from mlx_dequant.backends.gpu.act_order import sort_by_group
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.kernels import permute_columns
from mlx_dequant.tuning import Device

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")
full = pytest.mark.full

# Rows shared by eight simdgroups, as in small matrices, or each row one simdgroup's.
SHARED = {"shared": {"least_columns": 1}, "alone": {"few_rows": 0}}

# Of x: those of one pass of qmv, of two, of each block of qmm.
ROWS = (1, 2, 4, 7, 9, 16, 17, 64, 100)
SEVERAL = ("q4_k", "iq2_xs", "f16", "awq4", "gptq3", "ct3")

CASES = [(name, dtype, rows, few) for name in FORMATS for dtype in DTYPES for rows in ROWS for few in SHARED]


def is_fast(at, name, dtype, rows, few):
    """One row of x for each format, some more for a few formats; a type and a way to share, in turn."""
    if rows == 1:
        return (dtype, few) == (DTYPES[at % 3], [*SHARED][at % 2])
    if name not in SEVERAL or rows not in ((2, 4, 9) if name in ("q4_k", "awq4") else (9,)):
        return False
    at = SEVERAL.index(name) + rows // 3
    return dtype == DTYPES[at % 3] and (name == "q4_k" or few == [*SHARED][at % 2])


def cases():
    places = {name: at for at, name in enumerate(FORMATS)}
    for case in CASES:
        fast = is_fast(places[case[0]], *case)
        label = "-".join(str(part).removeprefix("mlx.core.") for part in case)
        yield pytest.param(*case, id=label, marks=() if fast else full)


@pytest.fixture(autouse=True)
def dense_products():
    with exact_matmul():
        yield


@pytest.mark.parametrize(("name", "dtype", "rows", "few"), list(cases()))
def test_products(name, dtype, rows, few):
    with tuned(**SHARED[few]), emulator.metal():
        for size in SIZES:
            # A gradient decodes 8 weights at a time, as dequantize does: other formats have nothing new there.
            check_products(weight(name, size), dtype, rows, seed=rows, gradient=name in TRAITS or rows > 1)


@pytest.mark.parametrize("name", ["q4_k", "iq2_xs", pytest.param("ct3", marks=full), pytest.param("f16", marks=full)])
def test_four_share_long_rows(name):
    """Rows that are no multiple of what four simdgroups take at once, and shorter ones."""
    for device in (emulator.metal, emulator.cuda) if name != "iq2_xs" else (emulator.metal,):
        with tuned(few_rows=0, long_rows=0, least_columns=1), device():
            for inputs in (4352, 1024):
                check_products(weight(name, (33, inputs)), mx.float16, 1)


VARIED = ((17, SIZES[0]), (64, SIZES[1]), (100, TILED))


def qmm_cases():
    """`TRAITS` with the smallest block, two with all blocks and sizes that nothing divides; the rest is `full`."""
    for at, name in enumerate(FORMATS):
        for dtype in (mx.float16, mx.bfloat16):
            for rows in (17, 64, 100):
                for size in (TILED, *SIZES):
                    varied = name in ("q4_k", "gptq3") and (rows, size) in VARIED
                    smallest = name in TRAITS and (rows, size) == (17, TILED)
                    fast = (varied or smallest) and dtype == (
                        mx.float16,
                        mx.bfloat16,
                    )[(at + rows) % 2]
                    label = f"{name}-{str(dtype).removeprefix('mlx.core.')}-{rows}-{size[0]}x{size[1]}"
                    yield pytest.param(name, dtype, rows, size, id=label, marks=() if fast else full)


@pytest.mark.parametrize(("name", "dtype", "rows", "size"), list(qmm_cases()))
def test_qmm(name, dtype, rows, size):
    with routed("fused_gemm"), emulator.metal():
        check_products(weight(name, size), dtype, rows, seed=rows)


@pytest.mark.parametrize(("name", "splits"), [("q8_0", 5), ("gptq4", 2)])
def test_threadgroups_share_inputs(name, splits):
    """Threadgroups share the inputs, evenly or not."""
    packed = weight(name, (192, 1280))
    held = dict.fromkeys((32, 64), splits * 2)  # there are two blocks of 128 outputs
    assert launches._splits(2, packed.in_features // 256, held[32]) == splits
    with routed("fused_gemm"), tuned(qmm_threadgroups=held), emulator.metal():
        check_products(packed, mx.float16, 17)


def test_splits_fill_a_gpu():
    assert launches._splits(64, 100, 264) == 4
    assert launches._splits(192, 100, 264) == 4
    assert launches._splits(256, 100, 264) == 1
    assert launches._splits(500, 100, 264) == 1
    assert launches._splits(1, 0, 264) == 1
    assert launches._splits(1, 16, 264) == 16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["q4_k", "awq4", pytest.param("ct3", marks=full)])
def test_dense_products_are_of_parts(name, dtype):
    """The weight is dequantized in parts, 32 rows or columns of it at a time."""
    with routed("dequantize_then_gemm"), patch.object(dispatch, "DENSE_BYTES", 1), emulator.metal():
        check_products(weight(name, (130, 130)), dtype, 17)


@pytest.mark.parametrize("name", ["q5_k", "gptq4", pytest.param("awq4", marks=full), pytest.param("iq2_s", marks=full)])
def test_single_inputs_pick_exact_weights(name):
    with emulator.metal():
        for dtype in DTYPES:
            check_single_inputs(weight(name), dtype, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [16384 + 8, 16384 + 7])
@pytest.mark.parametrize("device", [emulator.metal, emulator.cuda])
def test_permuted_columns(device, columns, dtype):
    """Of rows that several threadgroups share, aligned or not."""
    x = mx.random.normal((2, columns)).astype(dtype)
    perm = mx.array(np.random.default_rng(0).permutation(columns).astype(np.int32))
    with device():
        found = permuted(device.__name__, x, perm)
    assert mx.array_equal(found, x[:, perm])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, pytest.param(40, marks=full), 2047, pytest.param(2052, marks=full), 2304, 4096])
@pytest.mark.parametrize("device", [emulator.metal, emulator.cuda])
def test_permuted_columns_of_whole_rows(device, columns, dtype):
    """Rows in threadgroup memory come out as parts of rows do, bit by bit, NaNs of every kind too."""
    platform, words = device.__name__, mx.uint32 if dtype == mx.float32 else mx.uint16
    bits = np.random.default_rng(1).integers(0, 2 ** (8 * dtype.size), (5, columns))
    x = mx.array(bits, words).view(dtype)
    perm = np.random.default_rng(0).permutation(columns).astype(np.int32)
    for least in (5, 6):
        with tuned(permute_whole_rows=least), device():
            launch = launches.permutation(Device(platform), 5, columns, dtypes.name(dtype))
            assert (launch.spec == permute_columns()) == (least == 6)
            found = permuted(platform, x, mx.array(perm))
        assert np.array_equal(np.array(found.view(words)), bits[:, perm])


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    ("device", "known", "most"), [(emulator.metal, 0, 28), (emulator.cuda, 0, 44), (emulator.cuda, 80, 99)]
)
def test_permuted_columns_of_the_longest_rows(device, known, most, extra, dtype):
    """Those that a device's threadgroups can hold, and one value more."""
    columns = most * 1024 // dtype.size + extra
    x = mx.random.normal((2, columns)).astype(dtype)
    perm = mx.array(np.random.default_rng(0).permutation(columns).astype(np.int32))
    with tuned(permute_whole_rows=2), device():
        launch = launches.permutation(Device(device.__name__, known), 2, columns, dtypes.name(dtype))
        assert launch.spec == permute_columns(0 if extra else most)
        found = permuted(device.__name__, x, perm, known)
    assert mx.array_equal(found, x[:, perm])


@pytest.mark.parametrize("columns", [4096, 4091])
@pytest.mark.parametrize(
    ("device", "sanitizer"), [(emulator.metal, "thread"), (emulator.metal, "address"), (emulator.cuda, "address")]
)
def test_permuted_columns_under_sanitizers(device, columns, sanitizer):
    """The smallest threadgroup memory, filled, or nearly."""
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    x = mx.random.normal((2, columns)).astype(mx.float16)
    perm = mx.array(np.random.default_rng(0).permutation(columns).astype(np.int32))
    with tuned(permute_whole_rows=2), device(sanitizer=sanitizer, order="shuffled"):
        found = permuted(device.__name__, x, perm)
    assert mx.array_equal(found, x[:, perm])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param(name, count, marks=() if (name, count) in (("gptq3", 17), ("ct8", 9)) else full)
        for name in ("gptq4", "gptq3", "ct4", "ct8")
        for count in (1, 9, 17)
    ],
)
def test_products_of_sorted_weights(name, count):
    packed = shuffled(name, 301 if name == "ct8" else 320)  # rows that are aligned and rows that are not
    for device in (emulator.metal, emulator.cuda):
        with device():
            check_products(packed, DTYPES[count % 3], count)
    assert "gpu" in sort_by_group(packed.matrix).cache  # a backend has used it


@full
@pytest.mark.parametrize("inputs", [301, 320])
def test_no_read_of_sorted_weights_leaves_a_buffer(inputs, watched):
    for device in (emulator.metal, emulator.cuda):
        with device(**watched):
            check_products(shuffled("ct4", inputs), mx.float16, 3)


@pytest.mark.parametrize(
    ("name", "few"),
    [
        pytest.param(name, few, marks=full if name in ("ct3", "f32") and few == "shared" else ())
        for name in ("q4_k", "gptq4", "ct3", "f32")
        for few in SHARED
    ],
)
def test_every_order_gives_one_result(name, few):
    packed = weight(name)
    x = mx.array(np.random.default_rng(1).normal(size=(4, packed.in_features)).astype(np.float32))
    cotangent = mx.array(np.random.default_rng(2).normal(size=(4, packed.out_features)).astype(np.float32))
    found = set()
    for order in emulator.ORDERS:
        with tuned(**SHARED[few]), emulator.metal(order=order):
            values, gradients = mx.vjp(packed.linear, [x], [cotangent])
            found.add(np.array(values[0]).tobytes() + np.array(gradients[0]).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("name", ["q4_k", "gptq4", pytest.param("awq4", marks=full)])
def test_every_order_gives_one_result_of_qmm(name):
    packed = weight(name, TILED)
    rng = np.random.default_rng(1)
    x = mx.array(rng.normal(size=(33, packed.in_features)).astype(np.float16))
    found = set()
    for order in emulator.ORDERS:
        with routed("fused_gemm"), emulator.metal(order=order):
            found.add(np.array(packed.linear(x)).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("sanitizer", "few"),
    [
        ("thread", "shared"),
        pytest.param("thread", "alone", marks=full),
        pytest.param("address", "shared", marks=full),
        ("address", "alone"),
    ],
)
@pytest.mark.parametrize("name", ["q4_0", *(pytest.param(name, marks=full) for name in ("gptq4", "ct3", "f16"))])
def test_products_under_sanitizers(name, few, sanitizer):
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    with tuned(**SHARED[few]), emulator.metal(sanitizer=sanitizer, order="shuffled"):
        check_products(weight(name, (9, 77)), mx.float16, 4)


@full
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("rows", [17, 40])
@pytest.mark.parametrize("name", ["gptq4", "q4_0", "awq4", "f16"])
def test_qmm_under_sanitizers(name, rows, sanitizer):
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    with routed("fused_gemm"), emulator.metal(sanitizer=sanitizer, order="shuffled"):
        check_products(weight(name, (129, 64)), mx.float16, rows)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if name == "q8_0" or (name in TRAITS and i == at % 3) else full)
        for at, name in enumerate(FORMATS)
        for i, dtype in enumerate(DTYPES)
    ],
)
def test_take(name, dtype):
    with emulator.metal():
        for size in SIZES:
            packed = weight(name, size)
            ids = np.array([[1, -1, 3], [3, 0, -packed.out_features]])
            expected = rounded(exact(packed)[ids].astype(np.float32), dtype)
            assert_same(packed.take(mx.array(ids), dtype), expected, f"{packed} {dtype}")


@pytest.mark.parametrize("name", ["q8_0", "awq4", "ct3"])
def test_an_id_out_of_range_gives_nan(name):
    packed = weight(name)
    count = packed.out_features
    outside = [count, -count - 1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**32 + 1, -(2**32)]
    with emulator.metal():
        found = np.array(packed.take(mx.array([1, *outside], mx.int64), mx.float32))
        unsigned = np.array(packed.take(mx.array([1, 2**32 - 1], mx.uint32), mx.float32))
    for rows in (found, unsigned):
        assert np.array_equal(rows[0], exact(packed)[1].astype(np.float32))
        assert np.isnan(rows[1:]).all()
