"""The kernels of products with experts, executed as Metal and CUDA would run them, in every format."""

from itertools import product

import emulator
import mlx.core as mx
import numpy as np
import pytest
from devices import tuned
from expert_cases import CHOICES, EXPERTS, check_experts, chosen, experts
from product_cases import FORMATS, SIZES, TRAITS, numbers
from support import DTYPES, assert_same, bits

import mlx_dequant as mxd
from mlx_dequant import backends, kernels, launches, tuning
from mlx_dequant.backends.gpu.act_order import sort_by_group
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.tuning import Device

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")
full = pytest.mark.full

# Rows shared by eight simdgroups, as in small matrices, by four, as long ones, or each row one simdgroup's.
SHARED = {
    "eight": {"least_columns": 1},
    "four": {"few_rows": 0, "long_rows": 0, "least_columns": 1},
    "one": {"few_rows": 0},
}
KINDS = ("from the end", "each once", "all equal", "sorted")


# What `make test` has: a format a family and one with a table, a type and a way to share each.
FAST = {
    ("f16", emulator.metal, mx.bfloat16, "one"),
    ("q4_k", emulator.metal, mx.float32, "four"),
    ("iq2_xs", emulator.cuda, mx.float16, "eight"),
    ("awq4", emulator.cuda, mx.bfloat16, "eight"),
    ("gptq3", emulator.metal, mx.float16, "eight"),
    ("ct4", emulator.cuda, mx.float32, "one"),
}


def cases():
    for case in product(FORMATS, (emulator.metal, emulator.cuda), DTYPES, SHARED):
        name, device, dtype, shared = case
        label = f"{name}-{device.__name__}-{str(dtype).rpartition('.')[2]}-{shared}"
        yield pytest.param(*case, id=label, marks=() if case in FAST else full)


@pytest.mark.parametrize(("name", "device", "dtype", "shared"), list(cases()))
def test_products(name, device, dtype, shared):
    with tuned(**SHARED[shared]), device():
        for at, size in enumerate(SIZES):
            kind = KINDS[(list(FORMATS).index(name) + at) % len(KINDS)]
            check_experts(name, dtype, chosen(kind, 2, 1 + at), size, gradient=name in TRAITS)


@pytest.mark.parametrize("device", [emulator.metal, pytest.param(emulator.cuda, marks=full)])
@pytest.mark.parametrize("name", ["q8_0", *(pytest.param(name, marks=full) for name in ("gptq4", "awq4", "ct3"))])
def test_choices(name, device):
    with device():
        for k in (1, 3, 8):
            for kind in CHOICES if k < 8 else ("any", "all equal", "sorted"):
                check_experts(name, mx.float32, chosen(kind, 4, k), gradient=k == 3)


@full
@pytest.mark.parametrize("device", [emulator.metal, emulator.cuda])
@pytest.mark.parametrize("name", ["q8_0", "gptq4", "awq4", "ct3"])
def test_many_rows(name, device):
    """In float32 no matrix unit takes them over."""
    rows = {"from the end": (300, 1), "some missing": (40, 3), "sorted": (17, 8), "all equal": (33, 2)}
    with device():
        for kind, shape in rows.items():
            check_experts(name, mx.float32, chosen(kind, *shape), (9, 77), gradient=kind == "all equal")


@pytest.mark.parametrize("device", [emulator.metal, pytest.param(emulator.cuda, marks=full)])
@pytest.mark.parametrize("name", ["q8_0", "awq4", pytest.param("ct3", marks=full)])
def test_an_id_out_of_range_gives_nan(name, device):
    packed, _ = experts(name)
    outside = [EXPERTS, -EXPERTS - 1, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**32 + 1, -(2**32)]
    x = mx.ones((1, packed.in_features))
    with device():
        found = np.array(packed.gather_linear(x, mx.array([[1, *outside, -1]], mx.int64)))[0]
        inside = np.array(packed.gather_linear(x, mx.array([[1, EXPERTS - 1]])))[0]
        gradient = mx.vjp(
            lambda x: packed.gather_linear(x, mx.array([[1], [EXPERTS]])),
            [mx.ones((2, packed.in_features))],
            [mx.ones((2, 1, packed.out_features))],
        )[1][0]
    assert np.array_equal(found[[0, -1]], inside)
    assert np.isnan(found[1:-1]).all()
    assert np.isfinite(np.array(gradient[0])).all() and np.isnan(np.array(gradient[1])).all()


@pytest.mark.parametrize("rows", [1, pytest.param(20, marks=full)])
def test_ids_without_a_sign(rows):
    """As routers give them. The largest is no -1."""
    packed, _ = experts("q8_0")
    x = mx.ones((rows, packed.in_features), mx.float16)
    ids = chosen("any", rows, 3)
    outside = ids.astype(np.uint32)
    outside[0, :2] = (EXPERTS, 2**32 - 1)
    with emulator.metal():
        found, expected = (np.array(packed.gather_linear(x, mx.array(each))) for each in (outside, ids))
    assert np.isnan(found[0, :2]).all()
    assert np.array_equal(found[0, 2:], expected[0, 2:]) and np.array_equal(found[1:], expected[1:])


@pytest.mark.parametrize(("rows", "sorted"), [(2, False), (30, False), (30, True)])
def test_axes_in_front_are_kept(rows, sorted):
    packed, _ = experts("q8_0")
    matrix = packed.matrix
    x = numbers(np.random.default_rng(rows), (rows, packed.in_features), mx.float16)
    ids = mx.array(chosen("sorted" if sorted else "any", rows, 3))
    with emulator.metal():
        flat = backends.gather_matmul(matrix, x, ids, True, sorted)
        found = backends.gather_matmul(matrix, x.reshape(2, -1, 1, x.shape[1]), ids.reshape(2, -1, 1, 3), True, sorted)
    assert found.shape == (2, rows // 2, 1, 3, packed.out_features)
    assert_same(found.reshape(flat.shape), bits(flat), "axes")


def test_pairs_are_split_where_a_grid_ends(monkeypatch):
    width = experts("q8_0")[0].in_features
    monkeypatch.setattr("mlx_dequant.backends.gpu.gather_matmul.MAX_THREADS", 256 * -(-width // 8) * 5)
    with emulator.metal():
        check_experts("q8_0", mx.float32, chosen("any", 9, 2))


def test_experts_begin_where_wide_loads_may():
    """A stack of which some arrays have to be padded, on the device alone."""
    packed, _ = experts("ct4", SIZES[1])  # 77 inputs, each with a place: 308 bytes an expert
    matrix = sort_by_group(packed.matrix)
    assert matrix.perm.shape == (EXPERTS, 77)
    strides = launches.expert_strides(matrix)
    assert strides["expert_stride_3"] == 80
    for stride, array in zip(strides.values(), matrix.kernel_arrays(), strict=True):
        assert stride * array.dtype.size % 16 == 0
        assert 0 <= stride - array.size // EXPERTS < 16
    assert launches.expert_strides(experts("q4_k")[0].matrix) == {"expert_stride_0": 37 * 3 * 144}


def test_places_in_a_stack_have_32_bits(monkeypatch):
    """All of a stack's elements, but of GGUF's bytes an expert's."""
    for name, counted in (("gptq4", EXPERTS), ("q4_k", 1)):
        matrix = experts(name)[0].matrix
        strides = launches.expert_strides(matrix)
        most = max(strides.values())
        with monkeypatch.context() as context:
            context.setattr(launches, "MAX_STRIDE", most * counted)
            assert launches.expert_strides(matrix) == strides
            context.setattr(launches, "MAX_STRIDE", most * counted - 1)
            with pytest.raises(mxd.FormatError, match=f"found {most} elements an expert, expected at most {most - 1}"):
                launches.expert_strides(matrix)


def test_launches():
    """One launch for all pairs, of as many threadgroups as dense products of as many rows have."""
    metal = Device("metal")
    packed, _ = experts("q4_k")
    launch = launches.gather_few(metal, packed.matrix, 3, 2, "float16", True)
    bn, values = tuning.METAL.qmv_shape[1]
    assert launch.spec == kernels.gather_qmv(1, bn, values)  # a simdgroup has all columns
    assert launch.threadgroups == 6 * -(-37 // (8 * bn))
    with tuned(least_columns=1):
        launch = launches.gather_few(metal, packed.matrix, 3, 2, "float16", True)
    assert launch.spec == kernels.gather_qmv(8, bn, values)
    assert launch.threadgroups == 6 * -(-37 // bn)
    assert (launch.shape, launch.params.M, launch.params.choices, launch.params.experts) == ((6, 37), 6, 2, EXPERTS)
    assert (launch.params.rows, launch.params.columns) == (37, packed.in_features)
    assert launches.gather_few(metal, packed.matrix, 300, 8, "float16", True).spec == kernels.gather_qmv(1, bn, values)
    columns, lanes = experts("gptq4")[0].matrix, tuning.METAL.qvm_lanes
    launch = launches.gather_few(metal, columns, 1, 8, "float16", False)
    assert (launch.spec, launch.shape, launch.dtype) == (kernels.gather_qvm(lanes, 4, 32), (8, 40), "float16")
    assert launches.gather_few(metal, columns, 300, 8, "float16", False).spec == kernels.gather_qvm(lanes, 4, 32)


@pytest.mark.parametrize("name", ["gptq4", "ct4"])
def test_launches_of_sorted_stacks(name):
    """One, which reads x or stores its results in the order of the expert's inputs."""
    matrix = sort_by_group(experts(name, SIZES[1])[0].matrix)
    for transpose in (True, False):
        order = "inputs" if transpose == (matrix.layout == "NK") else "outputs"
        facts = (Device("metal"), matrix, 30, 2, "float16", transpose)
        few, many = launches.gather_few(*facts), launches.gather_many(*facts)
        assert (few.spec.permuted, few.params.choices) == (order, 2)
        # Many rows of x are put in order before, for each choice.
        assert (many.spec.permuted, many.params.choices) == (("", 1) if order == "inputs" else (order, 2))
        assert {launch.params.expert_stride_3 for launch in (few, many)} == {-(-matrix.K // 4) * 4}


@pytest.mark.parametrize("sanitizer", [pytest.param("thread", marks=full), "address"])
@pytest.mark.parametrize("name", ["q8_0", *(pytest.param(name, marks=full) for name in ("gptq4", "ct3", "f16"))])
def test_products_under_sanitizers(name, sanitizer):
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    with emulator.metal(sanitizer=sanitizer, order="shuffled"):
        check_experts(name, mx.float16, chosen("from the end", 2, 2), (9, 77), gradient=False)


@pytest.mark.parametrize("name", ["awq4", pytest.param("q4_k", marks=full), pytest.param("gptq4", marks=full)])
def test_every_order_gives_one_result(name):
    packed, _ = experts(name)
    x, ids = mx.random.normal((3, packed.in_features), key=mx.random.key(1)), mx.array(chosen("any", 3, 2))
    found = set()
    for order in emulator.ORDERS:
        with emulator.metal(order=order):
            found.add(np.array(packed.gather_linear(x, ids)).tobytes())
    assert len(found) == 1


def test_a_stack_that_a_matrix_is_part_of():
    """The experts of a stack multiply as they do by themselves."""
    packed, _ = experts("q8_0")
    x = mx.random.normal((1, packed.in_features), key=mx.random.key(2))
    with tuned(few_rows=0), emulator.metal():
        found = packed.gather_linear(x, mx.array([[4, 0]]))
        alone = mx.stack([mxd.linear(x, packed[number]) for number in (4, 0)], axis=1)
    assert mx.array_equal(found, alone)
