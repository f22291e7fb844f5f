"""Who runs a layer: torch itself on MPS, where it can and may, otherwise MLX."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from mlx_dequant.bridges import packed, shaders, targets  # noqa: E402


class OnMPS(torch.Tensor):
    """A tensor of the CPU that says it is on MPS."""

    @property
    def device(self):
        return torch.device("mps")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for variable in (targets.VARIABLE, targets.FAST_MATH):
        monkeypatch.delenv(variable, raising=False)
    known = (targets.chosen, targets.obstacle)
    for one in known:
        one.cache_clear()
    yield
    for one in known:
        one.cache_clear()


@pytest.fixture
def mac(monkeypatch):
    monkeypatch.setattr(torch._C, "_mps_compileShader", None, raising=False)
    return torch.ones(1).as_subclass(OnMPS)


def test_torch_runs_layers_on_mps(mac):
    assert targets.of(mac) is shaders
    assert targets.of(torch.ones(1)) is packed
    assert targets.obstacle() == ""


def test_a_torch_without_the_function(mac, monkeypatch):
    monkeypatch.delattr(torch._C, "_mps_compileShader")
    assert targets.of(mac) is packed
    assert targets.obstacle().endswith("has no torch.mps.compile_shader here")


def test_fast_math_is_refused(mac, monkeypatch):
    monkeypatch.setenv(targets.FAST_MATH, "1")
    assert targets.of(mac) is packed
    assert targets.obstacle().startswith("PYTORCH_MPS_FAST_MATH is set")


@pytest.mark.parametrize("value", ["0", ""])
def test_fast_math_that_is_off(mac, monkeypatch, value):
    monkeypatch.setenv(targets.FAST_MATH, value)
    assert targets.of(mac) is shaders


def test_the_bridge_can_be_chosen(mac, monkeypatch):
    monkeypatch.setenv(targets.VARIABLE, "bridge")
    assert targets.of(mac) is packed


def test_any_other_choice_is_an_error(mac, monkeypatch):
    monkeypatch.setenv(targets.VARIABLE, "mlx")
    with pytest.raises(ValueError, match="MLX_DEQUANT_TORCH: found 'mlx', expected shaders or bridge"):
        targets.of(mac)


def test_only_mlx_adopts_a_weight(mac, monkeypatch):
    taken = []
    monkeypatch.setattr(packed, "awq", lambda *operands, made: taken.append(made))
    monkeypatch.setattr(shaders, "awq", lambda *operands: taken.append("shaders"))
    weight = SimpleNamespace()
    targets.adopt("awq", (mac, 1), weight)
    targets.adopt("awq", (torch.ones(1), 1), weight)
    assert taken == [weight]
