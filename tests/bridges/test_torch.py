"""Tensors across the bridge on the CPU: dtypes, shapes, strides, errors."""

import mlx.core as mx
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from mlx_dequant import FormatError  # noqa: E402
from mlx_dequant.bridges import devices  # noqa: E402
from mlx_dequant.bridges.torch import count_synchronisations, to_mlx  # noqa: E402
from mlx_dequant.bridges.torch import to_torch as to_device  # noqa: E402


def to_torch(array, device="cpu"):
    """On a Mac the default would be MPS."""
    return to_device(array, device)


def values(dtype, *shape):
    """Every byte pattern that a random byte can make, so that no bit may be lost; booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def assert_same_bytes(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    found, expected = found.contiguous().reshape(-1), expected.contiguous().reshape(-1)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Both ways in: MLX's own import, and the write into MLX's memory."""
    if request.param == "large":
        monkeypatch.setattr(devices, "LARGE", 1 << 21)
        return 2100, 2001
    return 21, 20


@pytest.mark.parametrize("dtype", devices.DTYPES, ids=str)
def test_round_trip_keeps_every_byte(dtype, size):
    tensor = values(dtype, *size)
    array = to_mlx(tensor)
    assert (array.dtype, array.shape) == (devices.DTYPES[dtype], size)
    assert_same_bytes(to_torch(array), tensor)


VIEWS = {
    "transposed": lambda t: t.T,
    "offset": lambda t: t.reshape(-1)[3:],
    "every other column": lambda t: t[:, 1::2],
    "part of rows and columns": lambda t: t[5:-1, 2:-3],
    "expanded": lambda t: t[:1].expand(t.shape),
    "three axes": lambda t: t.reshape(7, -1, t.shape[1]).permute(2, 0, 1),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bfloat16, torch.complex64], ids=str)
def test_views_cross_as_what_they_show(dtype, view, size):
    tensor = VIEWS[view](values(dtype, *size))
    assert_same_bytes(to_torch(to_mlx(tensor)), tensor)


def test_conjugated_and_negated_views_cross_resolved():
    tensor = values(torch.complex64, 4, 5).nan_to_num()
    assert torch.equal(to_torch(to_mlx(tensor.conj())), tensor.conj().resolve_conj())
    assert torch.equal(to_torch(to_mlx(tensor.conj().imag)), tensor.conj().imag.resolve_neg())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_scalars_and_empty_ones(dtype, shape):
    tensor = torch.ones(shape, dtype=dtype)
    array = to_mlx(tensor)
    assert array.shape == shape
    back = to_torch(array)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_a_gradient_stays_behind():
    tensor = torch.ones(3, requires_grad=True)
    back = to_torch(to_mlx(tensor * 2))
    assert not back.requires_grad
    assert back.tolist() == [2, 2, 2]
    assert to_mlx(torch.nn.Parameter(tensor)).tolist() == [1, 1, 1]


def test_every_dtype_that_only_mlx_makes_in_double_comes_out():
    with mx.stream(mx.cpu):
        array = mx.array([1.5, 1e300], mx.float64)
        mx.eval(array)
    assert to_torch(array).dtype == torch.float64
    assert to_torch(array).tolist() == [1.5, 1e300]


def test_lazy_and_strided_arrays_come_out():
    array = (mx.arange(12) + 1).reshape(3, 4).T[1:]
    assert to_torch(array).tolist() == [[2, 6, 10], [3, 7, 11], [4, 8, 12]]


REVERSED = {
    "one axis": lambda a: a[::-1],
    "rows": lambda a: a.reshape(2, 3)[::-1, 1:],
    "columns, transposed": lambda a: a.reshape(2, 3)[:, ::-2].T,
}


@pytest.mark.parametrize("view", REVERSED)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.bool_], ids=str)
def test_arrays_with_negative_strides_come_out(dtype, view):
    array = REVERSED[view](mx.arange(6).astype(dtype))
    assert to_torch(array).tolist() == array.tolist()


def test_a_number_behind_the_memorys_begin_comes_out():
    array = mx.arange(10)
    mx.eval(array)
    found = to_torch(array[3])
    assert (found.shape, found.item()) == ((), 3)


def test_a_copy_in_does_not_follow_torch_and_nothing_is_copied_out():
    tensor = torch.zeros(4)
    array = to_mlx(tensor)
    tensor += 1
    assert array.tolist() == [0, 0, 0, 0]
    out = to_torch(array)
    out += 5
    assert array.tolist() == [5, 5, 5, 5]
    assert out.data_ptr() == to_torch(array).data_ptr()


def test_copy_false_shares_or_says_that_it_cannot():
    tensor = torch.zeros(1 << 16)
    if mx.metal.is_available():
        array = to_mlx(tensor, copy=False)
        tensor += 1
        assert array[0].item() == 1
    else:
        with pytest.raises(ValueError, match="without a copy"):
            to_mlx(tensor, copy=False)


def test_the_cpu_waits_for_mlx_alone():
    with count_synchronisations() as counts:
        to_torch(to_mlx(torch.zeros(3)) + 1)
    assert (counts.torch, counts.mlx) == (0, 1)
    to_torch(mx.zeros(3))
    assert counts.mlx == 1


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="here torch has MPS")
def test_a_device_that_torch_lacks_is_not_stood_in_for():
    with pytest.raises(RuntimeError, match=r"(?i)mps"):
        to_torch(mx.zeros(2), "mps")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: to_mlx(torch.zeros(2, dtype=torch.float64)), r"tensor: found torch\.float64, expected one of bool"),
        (lambda: to_mlx(torch.zeros(2, dtype=torch.complex128)), r"found torch\.complex128"),
        (lambda: to_mlx(torch.zeros(2).to(torch.float8_e4m3fn)), r"found torch\.float8_e4m3fn"),
        (lambda: to_mlx(torch.eye(2).to_sparse()), r"found layout torch\.sparse_coo"),
        (lambda: to_mlx(torch.nested.nested_tensor([torch.ones(2)])), "tensor: found a nested tensor"),
        (lambda: to_mlx(torch.zeros(2, device="meta")), "device: found meta, expected cpu, mps or cuda"),
        (lambda: to_mlx([1, 2]), r"found list, expected a torch\.Tensor"),
        (
            lambda: to_mlx(torch.zeros(2, dtype=torch.complex64).conj(), copy=False),
            "found a conjugated or negated view",
        ),
        (lambda: to_torch(torch.zeros(2)), r"found Tensor, expected an mx\.array"),
        (lambda: to_torch(mx.zeros(2), "meta"), "device: found meta"),
    ],
)
def test_what_cannot_cross_is_refused_by_name(wrong, message):
    with pytest.raises(FormatError, match=message):
        wrong()
