"""Products by whole dequantized matrices wait for each other: so many bytes are dequantized at a time, and no more."""

import threading

import mlx.core as mx
import pytest

from mlx_dequant.backends.gpu import queue


@pytest.fixture
def waiting(monkeypatch):
    monkeypatch.setattr(queue, "LIMIT", 100)
    fresh = queue._Waiting()
    monkeypatch.setattr(queue, "_waiting", fresh)
    return lambda: [size for _, size in fresh.products]


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([30, 30, 30], [30, 30, 30]),
        ([30, 30, 30, 30], [30, 30, 30]),
        ([60, 60, 60], [60, 60]),
        ([300, 300, 300], [300, 300]),
    ],
)
def test_so_many_bytes_wait(waiting, sizes, left):
    x = mx.array([[1.0, 2.0]])
    for size in sizes:
        assert queue.queued(size, double, x).tolist() == [[2.0, 4.0]]
    assert waiting() == left


def test_transformations_do_not_wait(waiting):
    x = mx.array([[1.0, 2.0]])
    assert mx.compile(lambda x: queue.queued(60, double, x))(x).tolist() == [[2.0, 4.0]]
    assert mx.vmap(lambda x: queue.queued(60, double, x))(x).tolist() == [[2.0, 4.0]]
    assert waiting() == []
    assert mx.grad(lambda x: queue.queued(60, double, x).sum())(x).tolist() == [[2.0, 2.0]]


def test_each_thread_has_its_own_queue(waiting):
    """Arrays of another thread's stream could not be waited for."""
    x = mx.array([[1.0]])
    mx.eval(x)
    threads = [threading.Thread(target=queue.queued, args=(60, double, x)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waiting() == []
