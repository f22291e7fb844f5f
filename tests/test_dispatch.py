"""The dispatcher as a table: which kernels run, with which blocks and parts, on which device."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from specs import every_spec

import mlx_dequant as mxd
from mlx_dequant import dispatch, kernels, launches, tuning
from mlx_dequant.dispatch import DENSE_BYTES, MATMUL, MATMUL_T, RULES, plan, route
from mlx_dequant.encoded import PARAMS, EncodedMatrix, LaunchParams, Region
from mlx_dequant.fast_divmod import grouping
from mlx_dequant.registry import FAMILIES, METAL
from mlx_dequant.tuning import Device

FORMATS = mxd.formats()
DEVICES = {
    "metal": Device("metal"),
    "metal17": Device("metal", 17),
    "cuda75": Device("cuda", 75),
    "cuda80": Device("cuda", 80),
    "cuda90": Device("cuda", 90),
    "cuda100": Device("cuda", 100),
}
HALVES = ("float16", "bfloat16")
each_device = pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))


def matrix(name, N=4096, K=4096, group_size=128, **fields):
    """A matrix without its arrays: plans ask for none."""
    form = FORMATS[name]
    rows, columns = (K, N) if FAMILIES[form.family].layout == "KN" else (N, K)
    params = {"blocks_per_row": K // form.weights} if form.weights else grouping(group_size, -(-K // group_size))
    return EncodedMatrix({}, form, rows, columns, fields.pop("scale_dtype", "float16"), params, **fields)


def linear(of):
    """x @ W.T for the layer's W [out, in], however it is stored."""
    return MATMUL if of.layout == "KN" else MATMUL_T


def backward(of):
    return MATMUL_T if of.layout == "KN" else MATMUL


def names(found):
    return [launch.spec.name for launch in found.launches]


# Of a device, a format and a type, the rows of x from which another route is taken.
FUSED, DENSE = "fused_gemm", "dequantize_then_gemm"
ROUTES = {
    ("metal", "q4_k", "float16"): {1: "gemv", 17: FUSED, 385: DENSE},
    ("metal", "gptq4", "bfloat16"): {1: "gemv", 17: FUSED, 385: DENSE},
    ("metal", "q4_k", "float32"): {1: "gemv", 129: DENSE},
    ("metal17", "q4_k", "float16"): {1: "gemv", 17: FUSED, 96: DENSE},
    ("metal17", "awq4", "bfloat16"): {1: "gemv", 17: FUSED, 96: DENSE},
    ("metal17", "q4_k", "float32"): {1: "gemv", 129: DENSE},
    ("cuda75", "q4_k", "float16"): {1: "gemv", 129: DENSE},
    ("cuda80", "awq4", "float16"): {1: "gemv", 17: FUSED, 385: DENSE},
    ("cuda90", "q4_k", "float16"): {1: "gemv", 17: FUSED, 256: DENSE},
    ("cuda90", "q4_k", "float32"): {1: "gemv", 129: DENSE},
    ("cuda90", "ct4", "bfloat16"): {1: "gemv", 17: FUSED, 256: DENSE},
    ("cuda100", "q8_0", "float16"): {1: "gemv", 17: FUSED, 385: DENSE},
}


def changes(device, of, dtype):
    found = {}
    for M in range(1, 2049):
        name = route(device, of, M, dtype).name
        if not found or found[max(found)] != name:
            found[M] = name
    return found


@pytest.mark.parametrize(("device", "name", "dtype"), ROUTES)
def test_routes(device, name, dtype):
    assert changes(DEVICES[device], matrix(name), dtype) == ROUTES[device, name, dtype]


@each_device
@pytest.mark.parametrize("name", ["gptq4", "ct3"])
def test_a_matrix_that_cannot_be_sorted_is_dequantized(name, device):
    of = matrix(name, has_g_idx=True)
    for dtype in ("float32", *HALVES):
        assert changes(device, of, dtype) == {1: DENSE}
        for operation in (MATMUL, MATMUL_T):
            found = plan(device, of, 1, dtype, operation)
            assert (found.launches, found.before, found.after) == ((), None, None)
            assert found.regions == (of.whole,) and "each input" in found.reason


def test_groups_that_end_inside_32_inputs_are_looked_up():
    """A lane of qmm takes 32 of them, where rows are inputs."""
    metal = DEVICES["metal"]
    for size, last in ((128, 385), (48, 257), (16, 257)):
        assert max(changes(metal, matrix("gptq4", group_size=size), "float16")) == last
    assert max(changes(metal, matrix("ct4", group_size=16), "float16")) == 385


@each_device
def test_every_route_has_a_reason(device):
    for row in tuning.tuning(device).routes:
        assert row.reason and row.name in ("gemv", FUSED, DENSE)
    for of in (matrix("q4_k"), matrix("gptq4", has_g_idx=True), matrix("f32")):
        assert all(route(device, of, M, dtype).reason for M in (1, 17, 5000) for dtype in ("float32", *HALVES))


@each_device
@pytest.mark.parametrize("operation", RULES)
def test_a_plan_is_a_pure_function(device, operation):
    for M in (1, 9, 64, 2000):
        found = plan(device, matrix("gptq4"), M, "float16", operation)
        assert found == plan(device, matrix("gptq4"), M, "float16", operation)
        assert hash(found) == hash(plan(device, matrix("gptq4"), M, "float16", operation))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["q4_k", "gptq4", "awq4", "ct4"])
def test_few_rows_are_one_launch(device, name):
    """Threadgroups take eight rows of x each; a sorted matrix's kernel permutes x itself."""
    for of in (matrix(name), replace(matrix(name), perm=object(), inv_perm=object())):
        forward = MATMUL_T if of.layout == "NK" else MATMUL
        if of.perm is not None and not of.group_size:
            continue
        (one,) = plan(DEVICES[device], of, 8, "float16", forward).launches
        (two,) = plan(DEVICES[device], of, 16, "float16", forward).launches
        assert (one.params.M, two.params.M) == (8, 16)
        many = {"qmv_mma": one.spec.template[0], "qvm": 8 + tuning.tuning(DEVICES[device]).qvm_rows[of.layout]}
        many = (many.get(one.spec.name, 16), *one.spec.template[1:])
        assert two.spec == replace(one.spec, template=many)
        assert two.threadgroups == 2 * one.threadgroups
        assert two.shape == (16, of.N)
        assert one.spec.permuted == ("" if of.perm is None else "inputs")
        assert plan(DEVICES[device], of, 8, "float16", forward).before is None


@pytest.mark.parametrize(("M", "bm"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_gemv_kernels(M, bm):
    metal, column = DEVICES["metal"], tuning.METAL
    bn, values = column.qmv_shape[bm]
    shared = 4 if M == 1 else 1
    (launch,) = plan(metal, matrix("q4_k"), M, "float16", MATMUL_T).launches
    assert launch.spec == kernels.qmv(bm, shared, bn, values)
    assert launch.threadgroups == 4096 * shared // (8 * bn)
    assert (launch.shape, launch.dtype) == ((M, 4096), "float16")
    # No more simdgroups share a row than it has columns for.
    for K, shared in ((1024, 1), (2048, 4 if M == 1 else 8), (4096, 4 if M == 1 else 8), (8192, 8)):
        (launch,) = plan(metal, matrix("q4_k", N=64, K=K), M, "float16", MATMUL_T).launches
        assert launch.spec == kernels.qmv(bm, shared, bn, values)
        assert launch.threadgroups == 64 * shared // (8 * bn)
    (across,) = plan(metal, matrix("q4_k", N=64, K=8192), M, "float16", MATMUL).launches
    assert across.spec == kernels.qvm(bm if bm <= 4 else 12, 16, 8, 8)
    assert across.threadgroups == 8192 // (8 * 16) * (1 if bm <= 4 else 2)
    assert (across.shape, across.dtype) == ((M, 8192), "float16")


# Rows of x from which qmv_mma runs, and inputs of a lane; None: never. By format, type of x and group size.
MMA = {
    ("gptq4", "float16", 128): (1, 32),
    ("gptq4", "bfloat16", 128): (2, 32),
    ("gptq4", "float16", 32): (2, 8),
    ("awq4", "float16", 128): (2, 32),
    ("ct4", "float16", 128): (2, 32),
    ("ct4", "float16", 32): (3, 8),
    ("q4_k", "float16", 0): (3, 8),
    ("iq2_xs", "float16", 0): (3, 32),
    ("iq2_xs", "bfloat16", 0): None,
    ("q6_k", "float16", 0): None,
    ("f16", "float16", 0): None,
    ("gptq4", "float16", 48): None,
    ("gptq4", "float32", 128): None,
}


@pytest.mark.parametrize(("name", "dtype", "size"), MMA)
def test_matrix_units_for_few_rows(name, dtype, size):
    of = matrix(name, group_size=size or 128)
    first, tk = MMA[name, dtype, size] or (99, 0)
    for device in DEVICES.values():
        new = device.platform == "cuda" and device.generation >= 80
        for M in range(1, 9):
            assert launches.mma_inputs(device, of, M, dtype) == (tk if new and first <= M else 0)
            uses = "qmv_mma" in names(plan(device, of, M, dtype, linear(of)))
            assert uses == (new and first <= M)
            assert "qmv_mma" not in names(plan(device, of, M, dtype, backward(of)))


def test_matrix_units_need_more_than_the_format():
    cuda = DEVICES["cuda80"]
    assert launches.mma_inputs(cuda, matrix("gptq4"), 8, "float16") == 32
    for other in (
        matrix("gptq4", scale_dtype="bfloat16"),
        matrix("gptq8", N=4100),
        matrix("q4_k", N=7),
        matrix("ct4", K=4096 + 8),
    ):
        assert launches.mma_inputs(cuda, other, 8, "float16") == 0


@pytest.mark.parametrize(
    ("device", "M", "block"),
    [
        ("metal", 17, (32, 16, "simdgroup")),
        ("metal", 33, (64, 16, "simdgroup")),
        ("metal", 300, (64, 16, "simdgroup")),
        ("cuda80", 33, (64, 32, "mma")),
        ("cuda80", 300, (128, 32, "mma")),
        ("cuda90", 33, (128, 32, "wgmma")),
    ],
)
def test_fused_gemm(device, M, block):
    bm = block[0]
    of = matrix("q4_k", N=4096, K=4096)
    found = plan(DEVICES[device], of, M, "float16", MATMUL_T)
    assert found.route == FUSED
    packed, product, *added = found.launches
    down = -(-M // bm)
    assert (packed.spec, packed.shape) == (kernels.pack_activations(*block), (down * bm, 4096))
    assert product.spec == kernels.qmm(False, *block)
    split_k = product.params.split_k
    assert product.threadgroups == down * 32 * split_k
    assert [launch.spec.name for launch in added] == (["split_k_reduce"] if split_k > 1 else [])
    assert (added or [product])[-1].shape == (M, 4096)
    assert (added or [product])[-1].dtype == "float16"


@pytest.mark.parametrize("N", [128, 1024, 4096, 100_000])
def test_split_k_leaves_no_threadgroup_without_inputs(N):
    of = matrix("q4_k", N=N)
    for M in (17, 64, 300):
        product = plan(DEVICES["metal"], of, M, "float16", MATMUL_T).launches[1]
        split_k, (_, tk) = product.params.split_k, product.spec.template[1:]
        steps = 4096 // (4 * tk)
        share = -(-steps // split_k)
        assert 1 <= split_k <= steps and share * (split_k - 1) < steps
        assert split_k == 1 or N < 100_000


def covered(regions, whole):
    """Whether regions cover a matrix once."""
    assert sum(part.rows * part.columns for part in regions) == whole.rows * whole.columns
    corners = {(part.first_row, part.first_column) for part in regions}
    return len(corners) == len(regions) and all(
        part.end_row <= whole.rows and part.end_column <= whole.columns for part in regions
    )


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("operation", [MATMUL_T, MATMUL])
@pytest.mark.parametrize(("name", "N", "K"), [("q4_k", 14336, 4096), ("gptq4", 128_256, 8192), ("ct4", 50_001, 30_000)])
def test_regions_are_bounded(name, N, K, operation, dtype):
    of = matrix(name, N, K)
    found = plan(DEVICES["metal"], of, 5000, dtype, operation)
    assert found.route == DENSE and found.launches == ()
    assert covered(found.regions, of)
    size = 4 if dtype == "float32" else 2
    assert max(part.rows * part.columns for part in found.regions) * size <= DENSE_BYTES
    assert all(part.first_column % 32 == 0 for part in found.regions)
    assert (len(found.regions) == 1) == (N * K * size <= DENSE_BYTES)


@each_device
def test_stored_types_are_dense(device):
    """F16 is multiplied as it is where x is float16, but for few rows, and as any format for another x."""
    for name, dtype in (("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")):
        of = matrix(name)
        assert plan(device, of, 16, dtype, MATMUL_T).route == "gemv"
        found = plan(device, of, 2000, dtype, MATMUL_T)
        assert (found.route, found.launches, found.regions) == ("dense", (), ())
        assert plan(device, of, 2000, "bfloat16" if name == "f16" else "float16", MATMUL_T).route == DENSE


@each_device
def test_rows_too_long_for_32_bits_are_multiplied_dense(device):
    """The kernels for few rows count the numbers of all rows of x, at most 128, in 32 bits."""
    longest = 1 << 25
    for N, K in ((32, longest + 256), (longest + 256, 32)):
        for dtype in ("float16", "float32"):
            of = matrix("q8_0", N, K)
            found = [plan(device, of, M, dtype, operation).route for M in (1, 2) for operation in (MATMUL_T, MATMUL)]
            assert found == ["gemv", "gemv", DENSE, DENSE]
    of = matrix("q8_0", N=32, K=longest)
    for dtype in ("float16", "bfloat16", "float32"):
        few = [M for M in range(1, 400) if plan(device, of, M, dtype, MATMUL_T).route == "gemv"]
        assert few and few[-1] * longest <= 1 << 32


def test_a_sorted_matrix_permutes_x_or_the_result():
    of = replace(matrix("gptq4"), perm=object(), inv_perm=object())
    for M in (40, 1000):
        found = plan(DEVICES["metal"], of, M, "float16", linear(of))
        assert (found.before.operand, found.after) == ("perm", None)
        assert found.before.shape == (M, 4096)
        found = plan(DEVICES["metal"], of, M, "float16", backward(of))
        assert (found.before, found.after.operand) == (None, "inv_perm")
    assert plan(DEVICES["metal"], of, 17, "float16", linear(of)).before.spec == kernels.permute_columns()
    assert plan(DEVICES["metal"], of, 64, "float16", linear(of)).before.spec == kernels.permute_columns(8)
    assert plan(DEVICES["metal"], matrix("gptq4"), 64, "float16", MATMUL).before is None


def test_shapes_of_qvm():
    """A format's own columns and rows of a lane, or the device's for many rows of x."""
    metal = DEVICES["metal"]
    for M, bm, shape, passes in ((1, 1, (8, 16), 1), (4, 4, (8, 16), 1), (5, 8, (4, 8), 1), (16, 8 + 8, (4, 8), 2)):
        (launch,) = plan(metal, matrix("awq4"), M, "float16", MATMUL).launches
        assert launch.spec == kernels.qvm(bm, 16, *shape)
        assert launch.threadgroups == 4096 // (shape[0] * 16) * passes
    for M, bm, shape in ((1, 1, (4, 32)), (4, 4, (8, 8)), (16, 8 + 8, (8, 1))):
        (launch,) = plan(DEVICES["cuda75"], matrix("gptq4"), M, "float32", MATMUL).launches
        assert launch.spec == kernels.qvm(bm, 8, *shape)


@each_device
@pytest.mark.parametrize("name", FORMATS)
def test_plans_launch_what_every_spec_has(name, device):
    """`every_spec` is what tests compile."""
    known = every_spec(device.platform, FORMATS[name])
    for of in (matrix(name), matrix(name, N=64), matrix(name, N=2048, K=8192, group_size=32)):
        for M in (1, 2, 3, 8, 17, 100):
            for operation in (*RULES,):
                found = plan(device, of, M, "float16", operation)
                specs = {launch.spec for launch in found.launches}
                assert specs <= known, specs - known


def test_dequantize_has_more_launches_where_a_grid_ends(monkeypatch):
    of = matrix("q4_k", N=100, K=4096)
    found = plan(DEVICES["metal"], of, 0, "float16", "dequantize")
    (launch,) = found.launches
    assert (launch.threadgroups, launch.shape) == (200, (100, 4096))
    monkeypatch.setattr(launches, "MAX_THREADS", 256 * 2 * 30)
    found = plan(DEVICES["metal"], of, 0, "float16", "dequantize")
    parts = found.launches
    assert [launch.shape for launch in parts] == [(30, 4096)] * 3 + [(10, 4096)]
    assert [(one.params.first_row, one.params.end_row) for one in parts] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert max(launch.threadgroups for launch in parts) * 256 <= launches.MAX_THREADS


def test_gathers():
    of = matrix("gptq4", N=256, K=640)
    for operation, length in (("gather_rows", 256), ("gather_columns", 640)):
        (launch,) = plan(DEVICES["metal"], of, 5, "float16", operation).launches
        assert (launch.spec.name, launch.shape, launch.params.M) == (operation, (5, length), 5)
    assert launch.threadgroups * 256 >= 5 * 640


def test_launch_params_are_the_structs():
    text = (METAL / "launch_params.metal").read_text()
    (struct,) = re.findall(r"struct LaunchParams \{(.*?)\};", text, re.DOTALL)
    assert tuple(re.findall(r"^  uint (\w+);", struct, re.MULTILINE)) == PARAMS
    assert struct.count(";") - len(re.findall(r"//.*;", struct)) == len(PARAMS)
    words = LaunchParams(**{name: at for at, name in enumerate(PARAMS)}).words
    assert words == tuple(range(len(PARAMS)))


def test_params_of_a_region():
    of = matrix("ct4", N=64, K=256)
    params = of.params(Region(8, 24, 32, 96), M=3)
    assert (params.rows, params.columns) == (64, 256)
    assert (params.first_row, params.end_row, params.first_column, params.end_column) == (8, 24, 32, 96)
    assert (params.M, params.split_k, params.group_size) == (3, 1, 128)
    assert of.params().end_row == 64


def test_the_shaders_numbers_are_pythons():
    def number(file, name):
        return int(re.search(rf"\b{name} = (\d+)", (METAL / "kernels" / file).read_text())[1])

    assert number("permute_columns.metal", "permute_chunk") == kernels.PERMUTE_CHUNK
    assert number("qmm_loads.metal", "block_outputs") == kernels.BLOCK_OUTPUTS


ALONE = ("", ".dispatch", ".launches", ".tuning", ".kernels", ".kernel_source", ".encoded", ".registry", ".dtypes")


def test_the_inner_modules_import_no_array_library():
    modules = ", ".join(f"mlx_dequant{name}" for name in ALONE)
    code = (
        f"import {modules}, sys; print([name for name in ('mlx', 'mlx.core', 'numpy', 'torch') if name in sys.modules])"
    )
    root = Path(dispatch.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
