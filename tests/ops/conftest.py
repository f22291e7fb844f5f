"""Fixtures of the operations' tests."""

from unittest.mock import patch

import mlx.core as mx
import pytest

from mlx_dequant import backends
from mlx_dequant.backends.gpu import metal
from mlx_dequant.kept import Kept
from mlx_dequant.ops import replay


class Graphs:
    """A GPU whose products are graphs of MLX's own operations. It counts how often one is built."""

    def __init__(self):
        self.built = 0

    def values(self, matrix):
        self.built += 1
        return matrix.arrays["blocks"].view(mx.float32)

    def matmul(self, matrix, x, transpose):
        values = self.values(matrix).reshape(matrix.rows, matrix.columns)
        return x @ (values.T if transpose else values)

    def gather_matmul(self, matrix, x, ids, transpose, sorted):
        values = self.values(matrix).reshape(matrix.experts, -1, matrix.columns)
        values = values.swapaxes(1, 2) if transpose else values
        rows = mx.broadcast_to(x if x.ndim > ids.ndim else x[..., None, :], (*ids.shape, x.shape[-1]))
        return (rows[..., None, :] @ values[ids]).squeeze(-2)


@pytest.fixture
def gpu():
    graphs = Graphs()
    with (
        mx.stream(mx.cpu),  # also on a machine with a GPU
        patch.object(backends, "current_backend", lambda: "metal"),
        patch.object(metal, "matmul", graphs.matmul),
        patch.object(metal, "gather_matmul", graphs.gather_matmul),
        patch.object(metal, "is_replayable", lambda matrix, x, transpose: len(x) < 100),
        patch.object(metal, "dense_bytes", lambda *product: 0),
        patch.object(replay, "_traces", Kept(1000)),
    ):
        yield graphs
