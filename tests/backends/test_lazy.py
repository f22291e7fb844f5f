"""The host's products are nodes of MLX's graphs; where they cannot be, they compute at once, and the log says why."""

import gc
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from support import bits, in_four_threads

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.host import compiler, driver, lazy, library, threads
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.disk_cache import cache_folder

full = pytest.mark.full


@pytest.fixture
def layer(host):
    if lazy.primitive() is None:
        pytest.skip("the log says why: MLX_DEQUANT_LOG=warning")
    return sample_weights.gguf("q4_1", np.random.default_rng(0), 96, 256, plain=True)


def at_once(work, *inputs):
    with lazy.at_once():
        return bits(work(*inputs))


def test_nothing_is_computed_that_nobody_reads(layer):
    x = mx.random.normal((3, 256))
    mx.eval(layer.linear(x), layer.take(mx.array([1])))
    for loop in library._loops:
        loop.cost = 123.0
    with threads.limited_to(1):  # the thread that asks measures: it does all of the work
        products = layer.linear(x), layer.take(mx.array([1])), mx.compile(layer.linear)(x)
    assert all(loop.cost == 123.0 for loop in library._loops)
    assert bits(products[0]).any()
    assert sum(loop.cost != 123.0 for loop in library._loops) == 1
    del products
    assert sum(loop.cost != 123.0 for loop in library._loops) == 1


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(256,), (1, 256), (2, 3, 256), (300, 256)], ids=str)
def test_the_same_bits_as_at_once(layer, dtype, shape):
    x = mx.random.normal(shape).astype(dtype)
    expected = at_once(layer.linear, x)
    assert np.array_equal(bits(layer.linear(x)), expected)
    assert np.array_equal(bits(mx.compile(layer.linear)(x)), expected)
    turned = mx.array(np.asfortranarray(np.array(x.astype(mx.float32)))).astype(dtype)
    assert np.array_equal(bits(layer.linear(turned)), expected)
    ids = mx.array([[5, -1], [0, 95]])
    assert np.array_equal(bits(layer.take(ids, dtype)), at_once(lambda ids: layer.take(ids, dtype), ids))


def test_any_number_of_rows_in_a_function_without_shapes(layer):
    """MLX's custom functions, which carry the rules of `linear`, have none for shapes."""
    compiled = mx.compile(lambda x: backends.matmul(layer.matrix, x, True), shapeless=True)
    for rows in (1, 5, 40, 1):
        x = mx.random.normal((rows, 256))
        np.testing.assert_allclose(np.array(compiled(x)), np.array(layer.linear(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap_over_any_axis(layer, axis):
    x = mx.random.normal((2, 3, 256))
    given = mx.moveaxis(x, 0, axis)
    assert np.array_equal(bits(mx.vmap(layer.linear, in_axes=axis)(given)), bits(layer.linear(x)))
    nested = mx.vmap(mx.vmap(lambda x: mx.sin(layer.linear(x))))(x)
    assert np.array_equal(bits(nested), bits(mx.sin(layer.linear(x))))
    ids = mx.array([[1, 2], [-1, 95]])
    assert np.array_equal(bits(mx.vmap(layer.take)(ids)), bits(layer.take(ids)))


def test_a_graph_keeps_the_weight(layer):
    """Until it is computed, and no longer: then its memory is free."""
    x = mx.random.normal((2, 4096))
    mx.eval(x)

    def large():
        return mxd.GGUFWeight(mx.ones((4096, 4096 // 32 * 20), mx.uint8), "Q4_1")

    weight = large()
    expected = bits(weight.linear(x))
    del weight
    gc.collect()
    before = mx.get_active_memory()
    y = large().linear(x)
    gc.collect()
    assert np.array_equal(bits(y), expected)
    del y
    gc.collect()
    mx.synchronize()
    assert mx.get_active_memory() - before < 1 << 20


def test_threads_of_python(layer):
    """Each builds and evaluates graphs of its own, on a stream of its own."""
    x = mx.random.normal((30, 256))
    mx.eval(x)
    expected = at_once(layer.linear, x)

    def work():
        with mxd.use_backend("host"), mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(20):
                assert np.array_equal(bits(layer.linear(x)), expected)

    in_four_threads(work)


def test_what_is_exported_has_the_dequantized_weight(layer, tmp_path):
    """MLX writes its own operations alone; on any machine they give the product."""
    x, ids = mx.random.normal((3, 256)), mx.array([1, 7])
    file = str(tmp_path / "f.mlxfn")
    mx.export_function(file, lambda x, ids: (layer.linear(x), layer.take(ids)), x, ids)
    product, rows = mx.import_function(file)(x, ids)
    np.testing.assert_allclose(np.array(product), np.array(layer.linear(x)), rtol=1e-4, atol=1e-4)
    assert np.array_equal(bits(rows), bits(layer.take(ids)))


def test_an_object_that_is_no_array(layer):
    with pytest.raises(TypeError, match=r"found ndarray, expected an mx\.array"):
        lazy.product(layer.matrix, driver.operand(layer.matrix, True, 1), np.ones((1, 256), np.float32))


PRODUCT = """
import mlx.core as mx, numpy as np
import mlx_dequant as mxd
from mlx_dequant import backends
weight = mxd.GGUFWeight(np.tile(np.frombuffer(b"\\0<" + bytes(range(32)), np.uint8), (40, 2)), "Q8_0")
x = mx.ones((3, 64))
for _ in range(3):
    with mxd.use_backend("host"):
        y = weight.linear(x)
        compiled = mx.compile(weight.linear)(x)
        print(backends.is_lazy(), end=" ")
    with mxd.use_backend("reference"):
        assert mx.allclose(y, weight.linear(x)) and mx.allclose(compiled, y)
"""


def said(cache, **variables):
    """Which way a new process multiplies, and what its log says of it."""
    environment = os.environ | {"MLX_DEQUANT_CACHE": str(cache), "MLX_DEQUANT_LOG": "warning"} | variables
    done = subprocess.run([sys.executable, "-c", PRODUCT], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def damaged(folder, change):
    """A compiler that changes the primitive's text by a command of sed, and compiles the rest as it is."""
    tool = compiler.compiler()
    if tool is None:
        pytest.skip("no C++ compiler was found")
    path = folder / "compiler"
    command = " ".join(tool.command)
    edit = f'for file; do case $file in */program.cpp) sed -i "{change}" "$file";; esac; done'
    path.write_text(f'#!/bin/sh\n{edit}\nexec {command} "$@"\n')
    path.chmod(0o755)
    return str(path)


AT_ONCE = "mlx_dequant WARNING: host: products compute at once and are not part of MLX's graphs: "


def test_an_environment_variable_turns_it_off(tmp_path, layer):
    assert said(cache_folder(), MLX_DEQUANT_LAZY="0") == (["False"] * 3, "")


@full
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("s/class Packed :/class Packed ;;;/", "said: "),  # it cannot be compiled
        ("s/const core::Device device/abort(); &/", "its trial ended with status -6"),
        ("s/overwrite_descriptor(made)/eval()/", "found other results than those of the loops"),
        ("s/place->offset/place->offset + (1 << 30)/", "its trial ended with status -11"),
        ('s/extern .C. void drop/extern \\"C\\" void dropped/', "undefined symbol: drop"),
    ],
    ids=["not compiled", "aborts", "wrong results", "crashes", "incomplete"],
)
def test_a_compiler_whose_primitive_fails(tmp_path, change, reason):
    """Everything works, and the log says once why; the next process does not try again."""
    cxx = damaged(tmp_path, change)
    for _ in range(2):
        results, log = said(tmp_path / "cache", CXX=cxx)
        assert results == ["False"] * 3
        assert log.count(AT_ONCE) == 1 and reason in log
    assert len(list((tmp_path / "cache").glob("*.tried"))) == (reason != "said: ")


@full
def test_a_compiler_that_works(tmp_path):
    for _ in range(2):
        assert said(tmp_path / "cache") == (["True"] * 3, "")


@full
def test_ziglang_has_another_library(tmp_path):
    pytest.importorskip("ziglang")
    results, log = said(tmp_path / "cache", CXX=f"{sys.executable} -m ziglang c++")
    assert results == ["False"] * 3
    assert "ziglang's C++ library is not the one that MLX is compiled with" in log
