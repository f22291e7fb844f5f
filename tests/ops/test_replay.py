"""A product on a GPU is traced once and replayed. MLX's own operations stand in for the launches."""

import subprocess
import sys
import threading
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from support import freed_at_once

import mlx_dequant as mxd
from mlx_dequant.kept import Kept
from mlx_dequant.ops import replay


def weight(seed=0):
    values = np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32)
    return mxd.GGUFWeight(values.view(np.uint8), "F32"), mx.array(values)


def x_of(rows=2):
    return mx.array(np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32))


def close(found, expected):
    return bool(mx.allclose(found, expected, rtol=1e-5, atol=1e-5))


def test_a_product_is_built_once_for_a_shape_and_type(gpu):
    packed, dense = weight()
    for _ in range(3):
        for shape in ((2, 8), (1, 2, 8)):
            x = x_of().reshape(shape)
            assert close(packed.linear(x), x @ dense.T)
    assert gpu.built == 2


def test_weights_of_a_kind_share_what_was_traced(gpu):
    for seed in range(3):
        packed, dense = weight(seed)
        assert close(packed.linear(x_of()), x_of() @ dense.T)
        assert close(mx.grad(lambda x, packed=packed: packed.linear(x).sum())(x_of()), mx.ones((2, 6)) @ dense)
    assert len(replay._traces) == 2  # one is the gradient's
    other = mxd.GGUFWeight(np.zeros((3, 32), np.uint8), "F32")
    assert other.linear(x_of()).shape == (2, 3)
    assert len(replay._traces) == 3


def test_a_product_with_experts_is_built_once(gpu):
    """For a shape and type of x and of ids, and for ids that are sorted or not."""
    values = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    packed, dense = mxd.GGUFWeight(values.view(np.uint8), "F32"), mx.array(values)

    def exact(x, ids):
        return (x[..., None, None, :] @ dense[ids].swapaxes(-1, -2)).squeeze(-2)

    for turn in range(3):
        for ids in (mx.array([[0, 1], [3, 3]]), mx.array([[turn], [2]], mx.uint32)):
            for sorted in (False, True):
                assert close(packed.gather_linear(x_of(), ids, sorted=sorted), exact(x_of(), ids))
    assert gpu.built == 4
    ids = mx.array([[0, 1], [3, 3]])
    loss, of_dense = ((lambda x, call=call: (call(x, ids) ** 2).sum()) for call in (packed.gather_linear, exact))
    assert close(mx.grad(loss)(x_of()), mx.grad(of_dense)(x_of()))
    assert close(
        mx.grad(lambda x: mx.grad(loss)(x).sum())(x_of()), mx.grad(lambda x: mx.grad(of_dense)(x).sum())(x_of())
    )
    assert close(mx.compile(packed.gather_linear)(x_of(), ids), exact(x_of(), ids))
    with pytest.raises(mxd.FormatError, match="ids: found shape"):
        packed.gather_linear(x_of(), mx.array([[0, 1]] * 3))


def test_what_is_more_than_a_graph_is_not_replayed(gpu):
    packed, dense = weight()
    for _ in range(3):
        assert close(packed.linear(x_of(100)), x_of(100) @ dense.T)
    assert gpu.built >= 3
    assert replay._traces == {}


def test_transformations_of_a_replayed_product(gpu):
    packed, dense = weight()
    x = x_of()
    packed.linear(x)
    packed.linear(x)
    loss, exact = (lambda x: (packed.linear(x) ** 2).sum()), (lambda x: ((x @ dense.T) ** 2).sum())
    assert close(mx.grad(loss)(x), mx.grad(exact)(x))
    assert close(mx.grad(lambda x: mx.grad(loss)(x).sum())(x), mx.grad(lambda x: mx.grad(exact)(x).sum())(x))
    assert close(mx.compile(packed.linear)(x), x @ dense.T)
    assert close(mx.checkpoint(packed.linear)(x), x @ dense.T)
    assert close(mx.vmap(packed.linear)(x[:, None]), (x @ dense.T)[:, None])
    assert close(mx.jvp(packed.linear, [x], [x])[1][0], x @ dense.T)
    assert close(mx.compile(mx.grad(loss))(x), mx.grad(exact)(x))


def test_a_first_product_under_a_transformation(gpu):
    packed, dense = weight()
    x = x_of()
    assert close(mx.grad(lambda x: packed.linear(x).sum())(x), mx.ones((2, 6)) @ dense)
    packed, dense = weight(1)
    assert close(mx.compile(packed.linear)(x), x @ dense.T)
    assert close(packed.linear(x), x @ dense.T)


def test_a_replaced_array_is_multiplied(gpu):
    packed, _ = weight()
    packed.linear(x_of())
    other, dense = weight(1)
    changed = packed.replace(blocks=other.arrays["blocks"])
    assert close(changed.linear(x_of()), x_of() @ dense.T)


def test_threads_and_streams(gpu):
    """MLX keeps traces by thread: a weight that another thread dropped must not answer for a new one."""
    wrong = []

    def work(seed):
        for i in range(100):
            packed, dense = weight(seed + i)
            if not close(packed.linear(x_of()), x_of() @ dense.T):
                wrong.append(seed)

    shared, dense = weight()
    with mx.stream(mx.new_stream(mx.default_device())):
        assert close(shared.linear(x_of()), x_of() @ dense.T)
    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    threads.append(
        threading.Thread(target=lambda: wrong.extend([0] * (not close(shared.linear(x_of()), x_of() @ dense.T))))
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert close(shared.linear(x_of()), x_of() @ dense.T)


def test_a_trace_that_holds_the_last_reference_to_a_weight():
    """MLX drops a trace with a lock held that a dropped replay would take again."""
    script = """
import mlx.core as mx, numpy as np, mlx_dequant as mxd
from unittest.mock import patch
from mlx_dequant import backends
from mlx_dequant.backends.gpu import metal

def matmul(matrix, x, transpose):
    values = matrix.arrays["blocks"].view(mx.float32).reshape(8, 8)
    return x @ (values.T if transpose else values)

backends.current_backend = lambda: "metal"
metal.matmul, metal.is_replayable, metal.dense_bytes = matmul, lambda *_: True, lambda *_: 0
blocks, x = np.zeros((8, 32), np.uint8), mx.ones((2, 8))
step = mx.compile(lambda x: mxd.GGUFWeight(blocks, "F32").linear(x))
mx.eval(step(x))
del step
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_bounded_number_is_kept(gpu):
    packed, _ = weight()
    with patch.object(replay, "_traces", Kept(3)) as traces:
        for rows in (1, 2, 3, 4, 5):
            packed.linear(x_of(rows))
            assert len(traces) <= 3


def test_a_dropped_weight_frees_its_memory(gpu):
    packed, _ = weight()
    packed.linear(x_of())
    with freed_at_once(packed.matrix):
        del packed
