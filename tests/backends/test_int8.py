"""The host's products with x rounded to 8 bits: exact for whole numbers, within their bound for others."""

import mlx.core as mx
import numpy as np
import pytest
from expert_cases import EXPERTS, experts
from product_cases import FORMATS, by_traits, exact, numbers, weight, wide
from support import DTYPES, bits, in_four_threads

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.host import lazy, library, threads
from mlx_dequant.diagnostics import bounds, checks, compare

NAMES = [name for name, form in FORMATS.items() if "int8_codes" in form.traits]
# Scales of 32 and of 16 weights, without mins and with one each; codes of all 8 bits.
names = pytest.mark.parametrize("name", by_traits(NAMES, ("q2_k", "q4_k", "q6_k", "q8_0")))
# Outputs and inputs, rounded up to what formats can have: a run or a block, eight runs and more, several blocks.
SIZES = ((3, 32), (37, 520), (130, 2048))
INT8_ROWS = 4

pytestmark = pytest.mark.usefixtures("host")


def rounded(work, *inputs):
    with mxd.use_backend("host", precision="int8"):
        return work(*inputs)


def whole_numbers(rng, rows, inputs):
    """x that rounding leaves as it is: each 32 are whole numbers up to 127, which they have, times a power of two."""
    x = rng.integers(-127, 128, (rows, inputs // 32, 32)).astype(np.float32)
    x[:, :, ::8] = rng.choice([-127, 127], (rows, inputs // 32, 4))
    return mx.array((x * 2.0 ** rng.integers(-8, 8, (rows, inputs // 32, 1))).reshape(rows, inputs))


def check(packed, x, allowance=bounds.INT8):
    """The product is within the bound; returns its errors as shares of that."""
    found = rounded(packed.linear, x)
    assert found.dtype == x.dtype
    expected, bound = bounds.matmul_bound(wide(x), exact(packed).T, x.dtype, allowance=allowance)
    result = compare.within(wide(found), expected, bound)
    assert not result.wrong, f"{packed} {x.dtype} {len(x)}: {result}"
    return (wide(found) - expected) / bound


def is_rounded(packed, x):
    return not np.array_equal(bits(rounded(packed.linear, x)), bits(packed.linear(x)))


def test_which_formats_have_it():
    others = {"nvfp4", "f32", "f16", "bf16", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}
    assert {name for name, form in FORMATS.items() if form.family == "gguf"} - set(NAMES) == others
    assert all(FORMATS[name].family == "gguf" for name in NAMES)


@names
def test_whole_numbers_lose_nothing(name):
    """So every code, scale, min and sum of x counts, and nothing saturates."""
    for size in SIZES:
        packed = weight(name, size)
        for rows in (1, 3):
            check(packed, whole_numbers(np.random.default_rng(rows), rows, packed.in_features), bounds.EXACT)
        check(packed, mx.full((1, packed.in_features), -127.0), bounds.EXACT)


@names
def test_products(name):
    for size in SIZES:
        packed = weight(name, size)
        for dtype in DTYPES:
            for rows in (1, 3, INT8_ROWS):
                x = numbers(np.random.default_rng(rows), (rows, packed.in_features), dtype)
                check(packed, x)
                assert is_rounded(packed, x)


@names
def test_the_bound_is_tight(name):
    """An x each of whose numbers is moved by half a step, away from the sign of the first output's weight."""
    packed = weight(name, SIZES[2])
    rng = np.random.default_rng(0)
    x = rng.integers(-100, 100, packed.in_features) + 0.499 * np.sign(exact(packed)[0])
    x[::32] = 127
    errors = check(packed, mx.array(x[None].astype(np.float32)))
    assert errors[0, 0] < -0.9


@pytest.mark.parametrize("code", [0x80, 0x7F, 0x81])
def test_the_largest_codes(code):
    """Sums of two products are at the end of 16 bits."""
    block = np.array([0x00, 0x3C, *[code] * 32], np.uint8)
    for sign in (1, -1):
        x = sign * np.where(np.arange(64) % 2, 127, 126).astype(np.float32)
        found = rounded(mxd.GGUFWeight(np.tile(block, (3, 2)), "Q8_0").linear, mx.array(x))
        assert np.array(found).tolist() == [float(x.sum()) * np.int8(np.uint8(code))] * 3


@pytest.mark.parametrize("name", ["q4_1", "q6_k"])
def test_numbers_of_any_size(name):
    """Each 32 have a scale of their own: zeros, subnormals, and what is near the largest float."""
    packed = weight(name, SIZES[1])
    x = np.random.default_rng(0).uniform(-1, 1, (4, packed.in_features // 32, 32))
    assert not np.array(rounded(packed.linear, mx.zeros((1, packed.in_features)))).any()
    for sizes in ([0, 1], [1e-3, 1, 0, 1e3], [1e-44, 1e-42, 1e-40, 1e-38], [1e-30, 0, 1e30], [1e36]):
        given = (x * np.resize(sizes, (x.shape[1], 1))).astype(np.float32)
        check(packed, mx.array(given.reshape(4, -1)))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scale_that_is_rounded(sign):
    """Of 190 of the smallest floats, it is one of them in place of 1.5, so 127 are left."""
    block = np.frombuffer(np.float16(60000).tobytes() + bytes([127] * 32), np.uint8)
    x = mx.full((1, 32), sign * 190 * 2.0**-149)
    found = rounded(mxd.GGUFWeight(block[None], "Q8_0").linear, x).item()
    np.testing.assert_allclose(found, sign * 127 * 2.0**-149 * 60000 * 127 * 32, rtol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q4_1", "q6_k"])
def test_a_row_that_is_not_finite_is_not_rounded(name, value):
    packed = weight(name, SIZES[1])
    x = np.random.default_rng(0).normal(size=(3, packed.in_features)).astype(np.float32)
    x[1, 77] = value
    found = rounded(packed.linear, mx.array(x))
    with np.errstate(invalid="ignore"):
        assert np.array_equal(bits(found)[1], bits(packed.linear(mx.array(x[1]))))
    assert np.array_equal(bits(found)[[0, 2]], bits(rounded(packed.linear, mx.array(x[[0, 2]]))))
    assert np.isfinite(np.array(found)[[0, 2]]).all() and not np.isfinite(np.array(found)[1]).any()


@pytest.mark.parametrize("rows", [INT8_ROWS + 1, 40])
def test_more_rows_are_not_rounded(rows):
    packed = weight("q4_k", SIZES[1])
    assert not is_rounded(packed, numbers(np.random.default_rng(0), (rows, packed.in_features), mx.float16))


@pytest.mark.parametrize("name", by_traits([name for name in FORMATS if name not in NAMES], ("gptq4", "ct4", "iq2_xs")))
def test_other_formats_are_not_rounded(name):
    packed = weight(name)
    for rows in (1, 3):
        assert not is_rounded(packed, numbers(np.random.default_rng(0), (rows, packed.in_features), mx.float32))


def test_nothing_but_linear_is_rounded():
    packed = weight("q4_1", SIZES[1])
    x = mx.random.normal((1, packed.in_features))
    gradient = mx.grad(lambda x: (packed.linear(x) * mx.arange(37)).sum())
    for work in (gradient, lambda x: packed.dequantize(), lambda x: packed.take(mx.array([3, 1]))):
        assert np.array_equal(bits(rounded(work, x)), bits(work(x)))


def test_the_default_rounds_nothing():
    packed = weight("q4_1", SIZES[1])
    x = mx.random.normal((1, packed.in_features))
    with mxd.use_backend("host", precision="float32"):
        expected = bits(packed.linear(x))
    with mxd.use_backend("host", "int8"):
        assert not np.array_equal(bits(packed.linear(x)), expected)
        with mxd.use_backend("host"):
            assert np.array_equal(bits(packed.linear(x)), expected)
    assert np.array_equal(bits(packed.linear(x)), expected)


def test_threads_change_nothing():
    packed = weight("q4_k", (700, 1024))
    x = mx.random.normal((2, packed.in_features))
    found = []
    for count in (1, 2, 7):
        for loop in library._loops:
            loop.cost = 1e6  # so that every thread pays
        with threads.limited_to(count):
            found.append(bits(rounded(packed.linear, x)))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_threads_of_python_choose_for_themselves():
    packed = weight("q4_1", SIZES[1])
    x = mx.random.normal((1, packed.in_features))
    expected = {name: bits(packed.linear(x)) for name in ("float32",)} | {"int8": bits(rounded(packed.linear, x))}

    def work():
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(10):
                for name, want in expected.items():
                    with mxd.use_backend("host", name):
                        assert np.array_equal(bits(packed.linear(x)), want)

    in_four_threads(work)


def test_graphs_keep_the_precision_they_were_made_with():
    packed = weight("q6_k", SIZES[1])
    x = mx.random.normal((3, packed.in_features))
    with lazy.at_once():
        expected = bits(rounded(packed.linear, x))
        assert not np.array_equal(bits(packed.linear(x)), expected)
    made = rounded(packed.linear, x)
    with mxd.use_backend("host"):
        assert np.array_equal(bits(made), expected)


def test_transformations():
    if lazy.primitive() is None:
        pytest.skip("the log says why: MLX_DEQUANT_LOG=warning")
    packed = weight("q6_k", SIZES[1])
    x = mx.random.normal((3, packed.in_features))
    expected = bits(rounded(packed.linear, x))
    assert np.array_equal(bits(rounded(mx.compile(packed.linear), x)), expected)
    mapped = rounded(mx.vmap(packed.linear), x[:, None])
    assert np.array_equal(bits(mapped)[:, 0], expected)
    any_rows = mx.compile(lambda x: backends.matmul(packed.matrix, x, True), shapeless=True)
    for rows in (1, 3):
        assert np.array_equal(bits(rounded(any_rows, x[:rows])), expected[:rows])


@names
def test_experts(name):
    packed, dense = experts(name)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, EXPERTS, (3, 2)).astype(np.int32)
    for x, allowance in (
        (whole_numbers(rng, 3, packed.in_features), bounds.EXACT),
        (numbers(rng, (3, packed.in_features), mx.bfloat16), bounds.INT8),
    ):
        found = rounded(packed.gather_linear, x, mx.array(ids))
        for row, each in enumerate(ids):
            for k, expert in enumerate(each):
                near = bounds.matmul_bound(wide(x[row : row + 1]), dense[expert].T, x.dtype, allowance=allowance)
                assert not compare.within(wide(found[row : row + 1, k]), *near).wrong
    assert not np.array_equal(bits(found), bits(packed.gather_linear(x, mx.array(ids))))


@pytest.mark.parametrize(("name", "count"), [("q8_0", 1), ("iq2_xs", 0), ("gptq4", 0)])
def test_doctor_checks_it(name, count, monkeypatch):
    found = [check for what, check in checks._checks(FORMATS[name]) if "int8" in what]
    assert len(found) == count
    for check in found:
        assert not check().wrong
        monkeypatch.setattr(checks, "INT8", bounds.EXACT)
        assert check().wrong
