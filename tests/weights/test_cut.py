"""Rows and columns of packed weights: the same bits as the whole weight's, and cuts that would split a unit."""

import mlx.core as mx
import numpy as np
import pytest
from expert_cases import EXPERTS, experts
from support import assert_same, bits

import mlx_dequant as mxd
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.weights import stored
from mlx_dequant.weights.cut import Cut, Packing, of_mlx

GROUPS = [(name, "") for name in sample_weights.GROUP_FORMATS] + [
    (name, "shuffled") for name in ("gptq2", "gptq3", "gptq4", "gptq8", "ct4", "ct8")
]


def weight(name, g_idx="", inputs=256, outputs=96, group_size=64):
    rng = np.random.default_rng(0)
    if name in sample_weights.GGUF_FORMATS:
        return sample_weights.gguf(name, rng, outputs, max(inputs, 4 * mxd.formats()[name].weights))
    return sample_weights.groups(name, rng, inputs, outputs, group_size, g_idx=g_idx)


def matrix(packed):
    """float32 [..., out, in]"""
    dense = np.array(packed.dequantize(mx.float32))
    return dense.T if packed.matrix.layout == "KN" and dense.ndim == 2 else dense


def assert_part(part, dense, what):
    assert_same(mx.array(np.ascontiguousarray(matrix(part))), bits(np.ascontiguousarray(dense)), what)
    assert (part.out_features, part.in_features) == dense.shape[-2:]


def cases():
    """All group formats, and GGUF's blocks of each size; the rest of GGUF in the full run."""
    sizes: set[tuple[int, int]] = set()
    for name in sample_weights.GGUF_FORMATS:
        size = mxd.formats()[name].weights, mxd.formats()[name].bytes
        yield pytest.param(name, "", marks=pytest.mark.full if size in sizes else ())
        sizes.add(size)
    yield from GROUPS


@pytest.mark.parametrize(("name", "g_idx"), list(cases()))
def test_rows_and_columns_have_the_whole_weights_bits(name, g_idx):
    whole = weight(name, g_idx)
    dense, rows, columns = matrix(whole), whole.out_features, whole.in_features
    row_unit, unit = Packing(whole.format, whole.matrix.group_size, whole.matrix.has_g_idx).units(columns)
    assert row_unit in (1, 4, 8, 16, 32) and columns % unit == 0
    for first, end in ((0, 2 * row_unit), (row_unit, rows)):
        assert_part(whole.rows(first, end), dense[first:end], name)
    middle = columns // 4 // unit * unit or unit
    for first, end in ((0, middle), (middle, columns)):
        part = whole.columns(first, end)
        assert_part(part, dense[:, first:end], name)
        assert_part(part.rows(0, row_unit), dense[:row_unit, first:end], name)
        assert part.nbytes < whole.nbytes
        own = {name: array for name, array in part.arrays.items() if array is not None}
        assert_part(stored.restore(stored.description(part), own), dense[:, first:end], name)


@pytest.mark.parametrize("name", ["q4_k", "gptq4", "awq4", "ct4"])
def test_products_of_parts_sum_to_the_whole_product(name, backend):
    rng = np.random.default_rng(1)
    whole = (
        sample_weights.gguf(name, rng, 96, 1024, plain=True)
        if name == "q4_k"
        else sample_weights.groups(name, rng, 256, 96, 64, plain=True, g_idx="shuffled" if name == "gptq4" else "")
    )
    x = mx.array(rng.standard_normal((3, whole.in_features)).astype(np.float32))
    half = whole.in_features // 2
    expected = np.array(whole.linear(x))
    parts = whole.columns(0, half).linear(x[:, :half]) + whole.columns(half, 2 * half).linear(x[:, half:])
    assert np.abs(np.array(parts) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(np.array(whole.rows(32, 64).linear(x)) - expected[:, 32:64]).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["q8_0", "q4_k", "awq4", "gptq4", "ct4"])
def test_experts_are_cut_each(name):
    packed, dense = experts(name, (64, 512) if name == "q4_k" else (64, 128))
    dense = dense.astype(np.float32)
    columns = packed.in_features // 2
    assert packed.rows(8, 40).shape == (EXPERTS, 32, packed.in_features)
    assert_part(packed.rows(8, 40), dense[:, 8:40], name)
    assert_part(packed.columns(columns, 2 * columns), dense[..., columns:], name)
    assert_part(packed.columns(0, columns)[2], dense[2, :, :columns], name)


@pytest.mark.parametrize("name", ["q8_0", "gptq4", "ct4"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_description_and_parts_of_arrays_make_the_part(name, axis):
    whole = experts(name, (64, 128))[0]
    cut = Cut(axis, 64 if axis == "rows" else 128, ((32, 64),))
    held = stored.packing_of(stored.settings_of(stored.description(whole)), whole.matrix.has_g_idx)
    arrays = {key: of_mlx(array, held.places(key, cut)) for key, array in whole.arrays.items() if array is not None}
    part = stored.restore(stored.description(whole), arrays, cut)
    assert part.shape == whole.cut(cut).shape
    assert_part(part, matrix(whole.cut(cut)), name)


def test_runs_are_put_together():
    whole = weight("gptq4")
    dense = matrix(whole)
    cut = Cut("rows", whole.out_features, ((8, 16), (64, 96)))
    assert_part(whole.cut(cut), np.concatenate([dense[8:16], dense[64:]]), "two runs of rows")


def test_a_part_frees_the_whole():
    whole = weight("q8_0", outputs=4096, inputs=2048)
    part = whole.rows(0, 8)
    mx.eval(part.arrays["blocks"])
    before = mx.get_active_memory()
    size = whole.nbytes
    del whole
    assert before - mx.get_active_memory() > size * 0.9


@pytest.mark.parametrize(
    ("name", "axis", "run", "message"),
    [
        ("q4_k", "columns", (0, 128), r"columns: found 0 to 128 of 1024, expected multiples of 256 \(Q4_K: .* block"),
        ("gptq4", "columns", (0, 32), r"found 0 to 32 of 256, expected multiples of 64 \(GPTQ 4-bit: .* group"),
        ("gptq4", "rows", (4, 8), r"rows: found 4 to 8 of 96, expected multiples of 8 \(GPTQ 4-bit: .* word"),
        ("gptq3", "rows", (0, 8), r"expected multiples of 32 \(GPTQ 3-bit"),
        ("ct4", "columns", (32, 64), r"expected multiples of 64 \(compressed-tensors 4-bit: .* group"),
        ("awq4", "rows", (0, 12), r"expected multiples of 8 \(AWQ 4-bit"),
        ("q8_0", "rows", (0, 97), r"rows: found 0 to 97, expected 0 <= first <= end <= 96"),
        ("q8_0", "rows", (8, 4), r"rows: found 8 to 4, expected 0 <= first <= end <= 96"),
        ("q8_0", "columns", (-32, 32), r"columns: found -32 to 32, expected 0 <= first <= end <= 256"),
        ("q8_0", "rows", (0, 1.5), r"end: found 1.5, expected an integer"),
    ],
)
def test_cuts_that_are_refused(name, axis, run, message):
    with pytest.raises(mxd.FormatError, match=message):
        getattr(weight(name), axis)(*run)


def test_a_weight_that_is_no_matrix():
    with pytest.raises(mxd.FormatError, match=r"shape: found \(64,\), expected a matrix of 1 rows"):
        mxd.GGUFWeight(mx.zeros(68, mx.uint8), "Q8_0").rows(0, 1)
    with pytest.raises(mxd.FormatError, match=r"shape: found \(96, 256\), expected a matrix of 90 rows"):
        weight("q8_0").cut(Cut("rows", 90, ((0, 8),)))
