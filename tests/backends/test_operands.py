"""A matrix made of the arrays that a trace was given multiplies as the matrix that they are of."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from emulated_kernels import needs_compiler
from product_cases import UNSORTED, numbers, shuffled, weight

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.gpu.operands import operands_of
from mlx_dequant.bench import random_layers

pytestmark = needs_compiler


MATRICES = {
    "blocks": lambda: random_layers.quantized("q8_0", 32, 64, 64),
    "values": lambda: random_layers.quantized("f16", 32, 64, 64),
    "groups": lambda: random_layers.quantized("gptq4", 32, 64, 32),
    "sorted": lambda: shuffled("gptq4"),
    "unsorted": lambda: weight("ct4", UNSORTED),
}


@pytest.mark.parametrize("name", MATRICES)
def test_products(name):
    matrix = MATRICES[name]().matrix
    with emulator.metal():
        operands = operands_of(matrix)
        again = operands.like(operands.arrays)
        assert (again.perm is not None) == (name == "sorted")
        for transpose, inputs in ((True, matrix.columns), (False, matrix.rows)):
            for rows in (1, 20):
                x = numbers(np.random.default_rng(rows), (rows, inputs), mx.float16)
                expected = backends.matmul(matrix, x, transpose)
                assert mx.array_equal(backends.matmul(again, x, transpose), expected)


@pytest.mark.parametrize("name", ["groups", "sorted"])
def test_experts(name):
    each = [MATRICES[name]() for _ in range(3)]
    stack = mxd.stack(each).matrix
    x, ids = numbers(np.random.default_rng(0), (2, stack.K), mx.float16), mx.array([[2, 0], [1, 1]])
    with emulator.metal():
        operands = operands_of(stack)
        again = operands.like(operands.arrays)
        assert operands_of(again).kind == again.kind
        assert (again.perm is not None) == (name == "sorted")
        expected = backends.gather_matmul(stack, x, ids, False)
        assert mx.array_equal(backends.gather_matmul(again, x, ids, False), expected)
