"""Layers that torch runs itself: no wait, no copy, no MLX; they follow their tensors; errors name what is wrong."""

import gc
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch", reason="the shaders run on torch's tensors")

from bridge_support import assert_bits, awq_layer, awq_plain, gptq_layer  # noqa: E402
from emulator.shader_library import torch_shaders  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from mlx_dequant import FormatError, bridges  # noqa: E402
from mlx_dequant.backends.host.compiler import compiler  # noqa: E402
from mlx_dequant.bridges import mps_dequant, shaders  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.devices import count_synchronisations  # noqa: E402
from mlx_dequant.bridges.shaders import launch  # noqa: E402
from mlx_dequant.kernels import SPLIT_K_REDUCE  # noqa: E402

emulated = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")
WORDS = torch.zeros(64, 8, dtype=torch.int32)
SCALES, ZEROS = torch.ones(1, 64), torch.zeros(1, 8, dtype=torch.int32)


class Watched(TorchDispatchMode):
    """Torch's operations by name, those in which a device would have to wait among them."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@emulated
def test_a_token_waits_for_nothing_and_copies_nothing(monkeypatch):
    layer, config = gptq_layer(act_order=True)
    x = torch.ones(1, 256).half()
    with torch_shaders():
        first = mps_dequant.gptq_dequant_matmul(x, layer, None, config)
        with monkeypatch.context() as patches, count_synchronisations() as counts, Watched() as watched:
            patches.setattr(launch, "kernel", None)  # nothing is compiled or planned anew
            second = mps_dequant.gptq_dequant_matmul(x, layer, None, config)
    assert_bits(second, first)
    assert (counts.torch, counts.mlx) == (0, 0)
    # The emulator itself reads tensors; a device gets them as they are.
    emulators = {"as_strided", "view", "copy_"}
    assert set(watched.names) - emulators <= {"gptq_linear", "detach", "_unsafe_view", "empty"}


@emulated
def test_tensors_are_bound_as_they_are():
    layer, _ = awq_layer()
    with torch_shaders():
        weight = shaders.awq(layer.qweight, layer.scales, layer.qzeros, 64)
    for name, array in weight.matrix.arrays.items():
        assert array.data_ptr() == getattr(layer, name).data_ptr()
    moved = torch.zeros(layer.qweight.numel() + 1, dtype=torch.int32)[1:].view_as(layer.qweight)
    assert launch.aligned(moved).data_ptr() != moved.data_ptr()  # kernels load 16 bytes at once
    assert launch.aligned(layer.qweight.T).is_contiguous()


@emulated
def test_any_layout_of_tensors_and_x():
    layer, config = awq_layer()
    x = torch.randn(256, 6).half().T
    with torch_shaders():
        expected = mps_dequant.awq_dequant_matmul(x.contiguous(), layer, None, config)
        assert_bits(mps_dequant.awq_dequant_matmul(x.reshape(2, 3, 256), layer, None, config), expected.view(2, 3, 64))
        layer.qweight = layer.qweight.T.contiguous().T
        layer.scales = torch.cat([layer.scales, layer.scales], 1)[:, 64:]
        assert_bits(mps_dequant.awq_dequant_matmul(x, layer, None, config), expected)
        bias = torch.arange(64).half()
        assert_bits(mps_dequant.awq_dequant_matmul(x, layer, bias, config), expected + bias)


@emulated
def test_a_layer_follows_its_tensors_and_goes_with_them():
    layer, _ = awq_layer()
    with torch_shaders():
        mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)
        layer.qweight.copy_(awq_layer(seed=1)[0].qweight)
        found = mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)
        assert_bits(found, awq_plain(layer.qweight, layer.scales, layer.qzeros, 64))
        (entry,) = WEIGHTS._entries.values()
        matrix = weakref.ref(entry.weight.matrix)
        del layer, entry
        gc.collect()
        assert (len(WEIGHTS), matrix()) == (0, None)


@emulated
def test_a_released_layer_keeps_its_codes():
    layer, _ = awq_layer()
    with torch_shaders():
        dense = mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)
        bridges.release(layer)
        layer.scales.mul_(2)
        assert layer.qweight.shape == (0,)
        found = mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)
        assert_bits(found, dense * 2)


def test_nothing_to_multiply():
    with torch_shaders():
        weight = shaders.awq(WORDS, SCALES, ZEROS, -1)
        assert shaders.product(torch.ones(2, 0, 64), weight, None, WORDS).shape == (2, 0, 64)
        assert shaders.rows(torch.empty(0, dtype=torch.int64), weight, WORDS, torch.float16).shape == (0, 64)


WRONG = {
    "qweight: found torch.int64": lambda: shaders.awq(WORDS.long(), SCALES, ZEROS, -1),
    "scales: found torch.float64": lambda: shaders.awq(WORDS, SCALES.double(), ZEROS, -1),
    r"scales: found shape \(1, 64\), expected \(2, 64\)": lambda: shaders.awq(WORDS, SCALES, ZEROS, 32),
    "qzeros: found 1 axes": lambda: shaders.awq(WORDS, SCALES, ZEROS[0], -1),
    "group_size: found 0": lambda: shaders.awq(WORDS, SCALES, ZEROS, 0),
    "bits: found 5": lambda: shaders.gptq(WORDS, SCALES, ZEROS, None, -1, "v1", 5),
    "zero_points: found 'v3'": lambda: shaders.gptq(WORDS, SCALES, ZEROS, None, -1, "v3", 4),
    "qweight: found 64 rows": lambda: shaders.gptq(WORDS, SCALES, ZEROS, None, -1, "v1", 3),
    "g_idx: found groups 0 to 7, expected 0 to 0": lambda: shaders.gptq(
        WORDS, torch.ones(1, 8), ZEROS[:, :1], torch.arange(512) % 8, -1, "v1", 4
    ),
    "weight_packed: found shape": lambda: shaders.compressed_tensors(WORDS, SCALES, None, None, 64, 65, -1, 4),
    "in_features: found -1": lambda: shaders.compressed_tensors(WORDS, SCALES, None, None, 64, -1, -1, 4),
    "weight_g_idx: found torch.int16": lambda: shaders.compressed_tensors(
        WORDS, torch.ones(64, 1), None, torch.full((64,), -1, dtype=torch.int16), 64, 64, -1, 4
    ),
    "quant_type: found 99": lambda: shaders.gguf(WORDS, 99, 1, 32),
    "blocks: found torch.int32": lambda: shaders.gguf(WORDS, 2, 1, 32),
    "blocks: found 4 bytes, expected 18": lambda: shaders.gguf(torch.zeros(4, dtype=torch.uint8), 2, 1, 32),
    "in_features: found 31": lambda: shaders.gguf(torch.zeros(18, dtype=torch.uint8), 2, 1, 31),
    "x: found shape": lambda: shaders.product(torch.ones(3), shaders.awq(WORDS, SCALES, ZEROS, -1), None, WORDS),
    "y: found shape": lambda: shaders.input_gradient(torch.ones(3), shaders.awq(WORDS, SCALES, ZEROS, -1), WORDS),
    "bias: found shape": lambda: shaders.product(
        torch.ones(64), shaders.awq(WORDS, SCALES, ZEROS, -1), torch.ones(3), WORDS
    ),
    "ids: found torch.float32": lambda: shaders.rows(
        torch.ones(1), shaders.awq(WORDS, SCALES, ZEROS, -1), WORDS, torch.float16
    ),
    "dtype: found torch.int8": lambda: shaders.dense(shaders.awq(WORDS, SCALES, ZEROS, -1), WORDS, torch.int8),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors(message):
    with pytest.raises(FormatError, match=message):
        WRONG[message]()


def test_a_gpu_with_small_threadgroups_is_refused(monkeypatch):
    class Small:
        max_threads_per_threadgroup = 128

        def __getattr__(self, name):
            return self

    monkeypatch.setattr(torch.mps, "compile_shader", lambda source: Small())
    launch.kernel.cache_clear()
    with pytest.raises(RuntimeError, match="found at most 128 threads a threadgroup, expected 256"):
        launch.kernel(None, SPLIT_K_REDUCE, "float16")


def test_words_pass_as_64_bits():
    words = (1, 2**32 - 1, 2**31, 0, 7)
    found = torch.tensor(launch.numbers(words)).view(torch.int32).tolist()
    assert [word % 2**32 for word in found] == [*words, 0]


WITHOUT_MLX = """
import sys
sys.modules["mlx"] = sys.modules["mlx.core"] = None
import torch
from mlx_dequant import bridges
from mlx_dequant.bridges import shaders, targets
from mlx_dequant.bridges.nn import AWQLinear, GGUFEmbedding, GGUFLinear, GPTQLinear

class Kernels:
    max_threads_per_threadgroup = 1024
    def __init__(self, source):
        assert "[[kernel]]" in source
    def __getattr__(self, name):
        return self
    def __call__(self, *arguments, threads, group_size):
        arguments[-1].fill_(1)

torch.mps.compile_shader = Kernels
targets.of = lambda tensor: shaders
x = torch.ones(3, 256).half()
for layer in (AWQLinear(256, 64), GPTQLinear(256, 64), GGUFLinear(256, 64, quant_type="q4_k")):
    assert layer(x).sum() == 3 * 64
    assert layer.dequantize().shape == (64, 256)
print(GGUFEmbedding(64, 256, "q4_k")(torch.tensor([1, 2])).shape)
"""


def test_mlx_is_not_imported():
    done = subprocess.run([sys.executable, "-c", WITHOUT_MLX], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([2, 256])\n"
