"""What every quantized weight is: what it accepts, what it tells, that it cannot change."""

import gguf
import mlx.core as mx
import numpy as np
import pytest
from support import DTYPES, assert_same, bits, gguf_fixture, group_fixture, group_tensors, rounded

import mlx_dequant as mxd

AWQ, GPTQ, CT = "awq_w4_g64_gemm_full", "gptq_w4_g32_actorder_sym_v1_full", "ct_w4a16_g64_asym_4l"


def test_shapes_and_features():
    awq, gptq, ct = (group_fixture(name)[0] for name in (AWQ, GPTQ, CT))
    for weight, shape in ((awq, (576, 32)), (gptq, (576, 32)), (ct, (32, 576))):
        assert weight.shape == shape
        assert (weight.in_features, weight.out_features) == (576, 32)
        assert weight.dequantize().shape == shape
    assert [weight.format.name for weight in (awq, gptq, ct)] == ["awq4", "gptq4", "ct4"]
    blocks = mxd.GGUFWeight(gguf_fixture("q4_k")["real"][0], "Q4_K")
    assert (blocks.shape, blocks.in_features, blocks.out_features) == ((4, 1536), 1536, 4)
    assert blocks.format is mxd.formats()["q4_k"]


def test_sizes():
    """Bytes as the tensors take them; the act-order index counts, one that says nothing does not."""
    awq, gptq, ct = (group_fixture(name)[0] for name in (AWQ, GPTQ, CT))
    codes = 576 * 32 // 2
    assert awq.nbytes == codes + 9 * 32 // 2 + 9 * 32 * 2
    assert gptq.nbytes == codes + 18 * 32 // 2 + 18 * 32 * 2 + 576 * 4
    assert ct.nbytes == codes + 9 * 32 // 2 + 9 * 32 * 2
    assert awq.bits_per_weight == 8 * awq.nbytes / (576 * 32)
    blocks = mxd.GGUFWeight(gguf_fixture("q4_k")["real"][0], "Q4_K")
    assert blocks.nbytes == 4 * 6 * 144
    assert blocks.bits_per_weight == 4.5
    assert "Q4_K" in repr(blocks) and "(4, 1536)" in repr(blocks) and "4.5 bits" in repr(blocks)


@pytest.mark.parametrize("kind", ["Q4_K", "q4_k", gguf.GGMLQuantizationType.Q4_K, 12, np.int32(12)])
def test_names_of_a_type(kind):
    assert mxd.GGUFWeight(gguf_fixture("q4_k")["real"][0], kind).format.name == "q4_k"


def test_leading_axes(backend):
    """A stack of experts is its experts, and a single row has one axis."""
    blocks, expected = gguf_fixture("q5_1")["real"]
    stack = mxd.GGUFWeight(blocks.reshape(2, 2, -1), "Q5_1")
    assert (stack.shape, stack.in_features, stack.out_features) == ((2, 2, 1536), 1536, 2)
    assert_same(stack.dequantize(mx.float32), bits(expected).reshape(2, 2, 1536))
    row = mxd.GGUFWeight(blocks[0], "Q5_1")
    assert (row.shape, row.out_features) == ((1536,), 1)
    assert_same(row.dequantize(mx.float32), bits(expected[0]))


def test_shape_gives_flat_bytes_their_axes(backend):
    blocks, expected = gguf_fixture("q5_1")["real"]
    for shape in ((2, 2, 1536), [1, 4, 1536], np.array([4, 1536])):
        weight = mxd.GGUFWeight(blocks.reshape(-1), "Q5_1", shape)
        assert weight.shape == tuple(shape)
        assert_same(weight.dequantize(mx.float32), bits(expected).reshape(weight.shape))


EMPTY = {
    "gguf no rows": lambda: mxd.GGUFWeight(np.zeros((0, 144), np.uint8), "Q4_K"),
    "gguf no columns": lambda: mxd.GGUFWeight(np.zeros((3, 0), np.uint8), "Q4_K"),
    "gguf f32": lambda: mxd.GGUFWeight(np.zeros((3, 0), np.uint8), "F32"),
    "gguf no experts": lambda: mxd.GGUFWeight(np.zeros(0, np.uint8), "Q8_0", (0, 2, 32)),
    "awq no inputs": lambda: mxd.AWQWeight(*words((0, 1), (0, 8), (0, 1))),
    "awq no outputs": lambda: mxd.AWQWeight(*words((128, 0), (1, 0), (1, 0))),
    "gptq no inputs": lambda: mxd.GPTQWeight(*words((0, 8), (0, 8), (0, 1))),
    "gptq no outputs": lambda: mxd.GPTQWeight(*words((16, 0), (1, 0), (1, 0))),
    "ct no inputs": lambda: mxd.CompressedTensorsWeight(*words((3, 0), (3, 0)), (3, 0)),
    "ct no outputs": lambda: mxd.CompressedTensorsWeight(*words((0, 16), (0, 1)), (0, 128)),
}


def words(codes, scales, zeros=None):
    arrays = [np.zeros(codes, np.int32), np.zeros(scales, np.float16)]
    return arrays if zeros is None else [*arrays, np.zeros(zeros, np.int32)]


@pytest.mark.parametrize("name", EMPTY)
def test_zero_size(name, backend):
    weight = EMPTY[name]()
    assert weight.bits_per_weight == 0 and weight.format.title in repr(weight)
    for dtype in DTYPES:
        found = weight.dequantize(dtype)
        assert (found.shape, found.dtype) == (weight.shape, dtype)
        assert np.array(found.astype(mx.float32)).size == 0


def spread(array):
    """The same values from memory that is not contiguous."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


KINDS = {
    "numpy": np.array,
    "mlx": mx.array,
    "numpy strided": spread,
    "numpy transposed": np.asfortranarray,
    "mlx strided": lambda array: mx.array(spread(array).base)[..., ::2],
    "mlx transposed": lambda array: mx.array(np.ascontiguousarray(array.T)).T,
    "numpy uint32": lambda array: array.view(np.uint32) if array.dtype == np.int32 else array,
    "mlx uint32": lambda array: mx.array(array.view(np.uint32) if array.dtype == np.int32 else array),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_kind(kind, backend):
    for name in (AWQ, GPTQ, CT):
        weight, expected = group_fixture(name)
        tensors = {key: np.array(array) for key, array in group_tensors(name).items() if key != "expected"}
        tensors = {key: KINDS[kind](array) for key, array in tensors.items()}
        options = {"group_size": 32 if name == GPTQ else 64}
        assert_same(type(weight)(**tensors, **options).dequantize(), bits(expected), f"{name} {kind}")
    blocks, expected = gguf_fixture("q6_k")["real"]
    assert_same(mxd.dequantize_gguf(KINDS[kind](blocks), "Q6_K", dtype=mx.float32), bits(expected), kind)


def test_weights_are_immutable(backend):
    blocks, expected = gguf_fixture("q4_0")["real"]
    weight = mxd.GGUFWeight(blocks, "Q4_0")
    for attribute in ("shape", "arrays", "matrix", "new"):
        with pytest.raises(AttributeError, match=f"GGUFWeight is immutable: {attribute}"):
            setattr(weight, attribute, None)
    with pytest.raises(AttributeError, match="immutable"):
        del weight.shape
    with pytest.raises(TypeError):
        weight.arrays["blocks"] = None
    with pytest.raises(AttributeError, match="rows"):
        weight.matrix.rows = 1

    given = [np.array(blocks), mx.array(blocks)]
    for array in given:
        weight = mxd.GGUFWeight(array, "Q4_0")
        array[:] = 0
        assert_same(weight.dequantize(mx.float32), bits(expected))


def test_results_do_not_share_memory(backend):
    blocks, expected = gguf_fixture("q4_0")["real"]
    weight = mxd.GGUFWeight(blocks, "Q4_0")
    np.asarray(weight.dequantize(mx.float32))[:] = 0
    assert_same(weight.dequantize(mx.float32), bits(expected))


def test_functions_take_the_same_arguments(backend):
    """The one-call forms, and the type they give by default."""
    for name, function in (
        (AWQ, mxd.dequantize_awq),
        (GPTQ, mxd.dequantize_gptq),
        (CT, mxd.dequantize_compressed_tensors),
    ):
        tensors = group_tensors(name)
        expected = tensors.pop("expected")
        expected = expected if name == CT else expected.T
        size = 32 if name == GPTQ else 64
        assert_same(function(**tensors, group_size=size), bits(expected), name)
        exact = np.array(expected.astype(mx.float32))
        found = function(**tensors, group_size=size, dtype=mx.float32)
        assert found.dtype == mx.float32
        assert np.array_equal(np.array(found.astype(mx.float16)), exact.astype(np.float16))
    blocks, exact = gguf_fixture("q4_0")["real"]
    assert_same(mxd.dequantize_gguf(blocks, "Q4_0"), rounded(exact, mx.float16))


def test_a_flat_slice_of_blocks_is_copied():
    """It may begin at any byte, and GPUs load 16 at once; what MLX allocates on a CPU begins at a multiple of 8."""
    file = mx.zeros(1 + 4 * 144, mx.uint8)
    blocks = mxd.GGUFWeight(file[1:], "Q4_K", (4, 256)).arrays["blocks"]
    assert np.asarray(blocks).ctypes.data % 8 == 0


def test_a_stack_of_no_weights(backend):
    weight = mxd.GGUFWeight(np.zeros(0, np.uint8), "q8_0", shape=(70000, 70000, 0))
    assert weight.dequantize().shape == (70000, 70000, 0)
