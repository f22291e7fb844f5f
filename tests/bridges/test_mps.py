"""The MPS path without a Mac: a fake tensor whose writes land only when torch is waited for.

What only a Mac can show (that Metal buffers are really shared) is for `mlx-dequant doctor` there.
"""

import ctypes
import gc
from functools import partial

import mlx.core as mx
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from bridge_support import assert_bits, assert_product, awq_layer, awq_plain  # noqa: E402

from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges import devices, mps_dequant  # noqa: E402
from mlx_dequant.bridges.cache import WEIGHTS  # noqa: E402
from mlx_dequant.bridges.lent import Lent  # noqa: E402
from mlx_dequant.bridges.torch import count_synchronisations, to_mlx, to_torch  # noqa: E402

METAL = 8
DEVICE_TYPE = 8  # byte of a DLManagedTensor where the device's type stands, an int32


def device_type(capsule):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_int32.from_address(pointer(capsule, b"dltensor") + DEVICE_TYPE)


class FakeMPS(torch.Tensor):
    """CPU storage that says it is on MPS and hands out capsules of Metal's device type."""

    @property
    def device(self):
        return torch.device("mps")

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def __dlpack_device__(self):
        return METAL, 0

    def __dlpack__(self, **_):
        capsule = self.as_subclass(torch.Tensor).__dlpack__()
        device_type(capsule).value = METAL
        return capsule


class AsCPU:
    """A capsule of Metal's, as MLX without Metal can read it."""

    def __init__(self, tensor):
        assert tensor.__dlpack_device__() == (METAL, 0)
        self.capsule = tensor.__dlpack__()
        assert device_type(self.capsule).value == METAL
        device_type(self.capsule).value = 1

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **_):
        return self.capsule


class FakeDevice(devices.MPS):
    """The real adapter, but for the two places where MLX and torch meet Metal."""

    def __init__(self, events):
        super().__init__()
        self.events = events
        self.private = False

    def adopt(self, tensor):
        if self.private:
            raise ValueError("[convert] Cannot import a private Metal buffer without a copy.")
        self.events.append("MLX reads")
        return mx.from_dlpack(AsCPU(tensor.as_subclass(FakeMPS)))

    def export(self, array, device):
        self.events.append("torch reads")
        return devices.HOST.give(array, device).as_subclass(FakeMPS)


@pytest.fixture
def mps(monkeypatch):
    """The fake device in place, its events, and the writes that wait for torch."""
    events, queued = [], []
    fake = FakeDevice(events)
    fake.queued = queued

    def synchronize():
        events.append("wait for torch")
        while queued:
            queued.pop(0)()

    def wait_for_mlx(array, wait=devices.wait_for_mlx):
        events.append("wait for MLX")
        wait(array)

    monkeypatch.setattr(torch.mps, "synchronize", synchronize)
    monkeypatch.setattr(devices, "wait_for_mlx", wait_for_mlx)
    monkeypatch.setattr(mx, "__version__", "0.32.4")
    monkeypatch.setitem(devices.BY_TYPE, "mps", fake)
    WEIGHTS.clear()
    yield fake
    WEIGHTS.clear()


def on_mps(layer):
    for name, tensor in vars(layer).items():
        setattr(layer, name, tensor.as_subclass(FakeMPS))
    return layer


def test_mlx_reads_what_torch_had_queued(mps):
    memory = torch.zeros(4)
    mps.queued.append(lambda: memory.fill_(7))
    assert to_mlx(memory.as_subclass(FakeMPS)).tolist() == [7, 7, 7, 7]
    assert mps.events == ["wait for torch", "MLX reads"]


def test_torch_reads_what_mlx_has_evaluated(mps):
    out = to_torch(mx.arange(3) + 1, "mps")
    assert mps.events == ["wait for MLX", "torch reads"]
    assert isinstance(out, FakeMPS)
    assert out.tolist() == [1, 2, 3]


def test_memory_is_not_used_again_before_torchs_queue_has_read_it(mps):
    """As models are loaded: a tensor on MLX's memory is cloned, which a GPU only queues, and dies."""
    copies = []
    for number in range(6):
        tensor = to_torch(mx.full((2048,), float(number)), "mps")
        copy = torch.empty(2048)
        mps.queued.append(partial(ctypes.memmove, copy.data_ptr(), tensor.data_ptr(), 8192))
        copies.append(copy)
        del tensor
    assert mps._lent.nbytes == 6 * 8192
    mps.wait_for_torch()
    assert [copy[0].item() for copy in copies] == [0, 1, 2, 3, 4, 5]
    assert mps._lent.nbytes == 0


def test_held_memory_is_bounded(mps, monkeypatch):
    monkeypatch.setattr(mps, "_lent", Lent(mps.wait_for_torch, 20_000))
    alive = [to_torch(mx.full((2048,), float(number)), "mps") for number in range(10)]
    view = alive[9][1000:]
    del alive[2:]  # as a model dies: nothing is lent after that
    assert mps._lent.nbytes <= 20_000 + 2 * 8192
    assert mps.events.count("wait for torch") >= 2
    assert (alive[1][0], view[0]) == (1, 9)
    del view
    mps.wait_for_torch()
    assert mps._lent.nbytes == 0


def test_a_forced_copy_is_torchs_and_comes_before_the_wait(mps):
    memory = torch.arange(4.0).as_subclass(FakeMPS)
    array = to_mlx(memory, copy=True)
    assert mps.events == ["wait for torch", "MLX reads"]
    assert array.tolist() == [0, 1, 2, 3]
    assert not devices._shared


def test_private_storage_goes_through_the_host_and_never_through_mlxs_copy(mps):
    mps.private = True
    tensor = torch.arange(6.0).reshape(2, 3).T.as_subclass(FakeMPS)
    assert to_mlx(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert mps.events == ["wait for torch"]
    assert not devices._shared
    with pytest.raises(ValueError, match="private Metal buffer"):
        to_mlx(tensor, copy=False)


def test_an_empty_tensor_has_no_buffer_to_share(mps):
    assert to_mlx(torch.zeros(0, 3).as_subclass(FakeMPS)).shape == (0, 3)
    assert mps.events == ["wait for torch"]


def test_shared_memory_has_a_second_holder_while_the_tensor_lives(mps):
    tensor = torch.zeros(4).as_subclass(FakeMPS)
    arrays = [to_mlx(tensor) for _ in range(3)]
    assert mps.events.count("MLX reads") == 1
    assert [array.tolist() for array in arrays] == [[0] * 4] * 3
    tensor.data = torch.ones(4).as_subclass(FakeMPS)
    assert to_mlx(tensor).tolist() == [1] * 4
    assert len(devices._shared) == 1
    del tensor
    gc.collect()
    assert len(devices._shared) == 0


@pytest.mark.parametrize("view", [lambda t: t.conj(), lambda t: t.conj().imag], ids=["conjugated", "negated"])
def test_a_view_that_torch_has_to_resolve_is_not_shared(mps, view):
    memory = torch.tensor([1 + 2j, 3 - 1j])
    tensor = view(memory).as_subclass(FakeMPS)
    for _ in range(2):
        assert to_mlx(tensor).tolist() == tensor.resolve_conj().resolve_neg().tolist()
        memory *= 10
    assert not devices._shared


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_with_warm_weights_waits_once_each_way(mps, bias):
    layer, config = awq_layer()
    dense = awq_plain(layer.qweight, layer.scales.double(), layer.qzeros, 64)
    layer = on_mps(layer)
    x = torch.randn(3, 256).half().as_subclass(FakeMPS)
    added = torch.randn(64).half().as_subclass(FakeMPS) if bias else None
    with count_synchronisations() as cold:
        mps_dequant.awq_dequant_matmul(x, layer, added, config)
    mps.events.clear()
    with count_synchronisations() as warm:
        # Other tensors with the same values: one that is shared already need not be imported again.
        y = mps_dequant.awq_dequant_matmul(x.clone(), layer, added if added is None else added.clone(), config)
    assert mps.events == ["wait for torch", *["MLX reads"] * (1 + bias), "wait for MLX", "torch reads"]
    assert (cold.torch, cold.mlx) == (2, 1)
    assert (warm.torch, warm.mlx) == (1, 1)
    assert y.device.type == "mps"
    plain = [None if t is None else t.as_subclass(torch.Tensor) for t in (y, x, added)]
    assert_product(plain[0], plain[1], dense, plain[2])


def test_unpacked_weights_stay_on_the_device(mps):
    layer, _ = awq_layer()
    expected = awq_plain(layer.qweight, layer.scales, layer.qzeros, 64)
    layer = on_mps(layer)
    found = mps_dequant._pytorch_dequant_awq(layer.qweight, layer.scales, layer.qzeros, 64)
    assert found.device.type == "mps"
    assert_bits(found.as_subclass(torch.Tensor), expected)


def test_devices_do_not_mix(mps):
    layer, config = awq_layer()
    x = torch.zeros(1, 256).half()
    with pytest.raises(FormatError, match="x: found device mps, expected cpu as qweight"):
        mps_dequant.awq_dequant_matmul(x.as_subclass(FakeMPS), layer, None, config)
    with pytest.raises(FormatError, match="bias: found device cpu, expected mps as qweight"):
        mps_dequant.awq_dequant_matmul(x.as_subclass(FakeMPS), on_mps(layer), torch.zeros(64), config)
    layer.scales = layer.scales.as_subclass(torch.Tensor)
    with pytest.raises(FormatError, match="scales: found device cpu, expected mps as qweight"):
        mps_dequant.awq_dequant_matmul(x.as_subclass(FakeMPS), layer, None, config)


@pytest.mark.parametrize(("version", "shares"), [("0.32.0", False), ("0.32.3", True), ("0.33.0.dev20261101", True)])
def test_an_mlx_whose_imports_hang_gets_a_copy_through_the_host(mps, monkeypatch, version, shares):
    monkeypatch.setattr(mx, "__version__", version)
    tensor = torch.arange(6.0).as_subclass(FakeMPS)
    assert to_mlx(tensor).tolist() == [0, 1, 2, 3, 4, 5]
    assert ("MLX reads" in mps.events) == shares
    if not shares:
        with pytest.raises(FormatError, match=r"copy=False: found mlx 0.32.0, expected 0.32.3 or later"):
            to_mlx(tensor, copy=False)
