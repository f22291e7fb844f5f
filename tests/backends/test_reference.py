"""The reference alone: it shares nothing with the shaders, and its own parts are right."""

import ast
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from layout import along
from support import DTYPES, GGUF_TYPES, assert_same, bits, rounded

import mlx_dequant as mxd
from mlx_dequant.backends import arrays, reference
from mlx_dequant.backends.reference import groups
from mlx_dequant.registry import FAMILIES

# What the reference's modules may import, besides each other.
ALLOWED = {"__future__", "importlib", "gguf", "mlx", "numpy", "...encoded", "..arrays"}


def test_it_shares_nothing_with_the_shaders():
    """Neither kernel sources nor another backend: NumPy, MLX, gguf-py, the record and what rounds."""
    files = sorted(Path(reference.__file__).parent.glob("*.py"))
    assert {path.stem for path in files} == {"__init__", "groups", *FAMILIES}
    for path in files:
        tree = ast.parse(path.read_text())
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add("." * node.level + (node.module or ""))
        assert imported <= {*ALLOWED, ".groups"}, f"{path.name}: {imported}"
        assert "metal" not in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}, path.name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding(dtype):
    """Every sign and exponent, with the fractions that decide: ties, the bits beside them, NaNs."""
    fractions = [0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0xFFF, 0x1000, 0x1001, 0x3000, 0x400000, 0x7FFFFF]
    words = (np.arange(512, dtype=np.uint32)[:, None] << 23 | np.array(fractions, np.uint32)).astype(np.uint32)
    exact = words.view(np.float32)
    assert_same(arrays.rounded(exact, dtype), rounded(exact, dtype))


def test_the_rounding_the_tests_use():
    """`support.rounded`, against values rounded by hand."""
    cases = {1.0: 0x3C00, -2.0: 0xC000, 65504: 0x7BFF, 65519: 0x7BFF, 65520: 0x7C00, 2**-24: 1, 2**-25: 0}
    cases |= {1 + 2**-11: 0x3C00, 1 + 3 * 2**-11: 0x3C02, 3 * 2**-25: 2, -(2**-26): 0x8000, 2**-14: 0x0400}
    found = rounded(np.array(list(cases), np.float32), mx.float16)
    assert found.tolist() == list(cases.values())
    cases = {1.0: 0x3F80, 1 + 2**-8: 0x3F80, 1 + 3 * 2**-8: 0x3F82, 1 + 2**-8 + 2**-20: 0x3F81, 3.4e38: 0x7F80}
    found = rounded(np.array(list(cases), np.float32), mx.bfloat16)
    assert found.tolist() == list(cases.values())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_codes(width, axis):
    codes = np.random.default_rng(width).integers(0, 1 << width, (37, 41))
    words = along(axis, codes, width)
    assert np.array_equal(groups.codes(words, width, axis, codes.shape[axis]), codes)


GGUF_PY = {kind.name.lower() for kind in gguf.quants._type_traits} | {"f32", "f16"}


@pytest.mark.parametrize("name", sorted(GGUF_PY & set(mxd.formats())))
def test_it_is_gguf_py(name):
    form = mxd.formats()[name]
    blocks = np.random.default_rng(0).integers(0, 256, (3, 5 * form.bytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[form.title]).astype(np.float32)
    assert_same(reference.dequantize(mxd.GGUFWeight(blocks, name).matrix, mx.float32), bits(expected), name)


def test_the_types_that_gguf_py_lacks_have_ggmls_own_fixtures():
    types = {name for name, form in mxd.formats().items() if form.family == "gguf"}
    assert types - GGUF_PY <= {"q1_0", "q2_0"} <= set(GGUF_TYPES)
