"""The doctor's checks of the bridge hold here, and would tell if they did not."""

from types import SimpleNamespace

import mlx.core as mx
import pytest

torch = pytest.importorskip("torch", reason="the bridge needs torch")

from emulator.shader_library import torch_shaders  # noqa: E402

from mlx_dequant import formats  # noqa: E402
from mlx_dequant.bridges import doctor, mps_dequant, targets  # noqa: E402


@pytest.fixture(autouse=True)
def few_numbers(monkeypatch):
    monkeypatch.setattr(doctor, "COUNT", 1 << 10)


def found(where="cpu"):
    return {what.partition(" ")[0]: (holds, seen) for what, holds, seen in doctor.checks(where)}


def test_every_check_of_the_cpu_holds():
    results = doctor.checks("cpu")
    assert len(results) == 4
    for what, holds, seen in results:
        assert holds, f"{what}: {seen}"


def test_stale_numbers_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "to_mlx", lambda tensor: mx.zeros(tensor.shape))
    assert found()["Queued"] == (False, "stale numbers in turn 0")


def test_a_copy_out_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "to_torch", lambda array, where: torch.zeros(array.shape))
    assert found()["Torch"] == (False, "a write by torch did not show")


def test_a_wrong_product_is_told(monkeypatch):
    right = mps_dequant.awq_dequant_matmul
    monkeypatch.setattr(mps_dequant, "awq_dequant_matmul", lambda *parts: right(*parts) + 1)
    holds, seen = found()["A"]
    assert not holds
    assert seen.startswith("64 of 64 values differ")


def test_a_check_that_fails_does_not_end_the_report(monkeypatch):
    def broken(tensor):
        raise RuntimeError("no Metal")

    monkeypatch.setattr(doctor, "to_mlx", broken)
    results = found()
    assert results["Queued"] == (False, "RuntimeError: no Metal")
    assert results["Torch"][0]


@pytest.mark.full
def test_torchs_own_shaders_hold():
    with torch_shaders():
        assert doctor.runs_shaders("cpu") == ""


def test_wrong_shaders_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "formats", lambda: {"q8_0": formats()["q8_0"]})
    wrong = SimpleNamespace(dequantize=lambda dtype: torch.zeros(64, 256))
    monkeypatch.setattr(doctor, "packed_linear", lambda weight, where: wrong)
    with torch_shaders():
        assert doctor.runs_shaders("cpu") == "q8_0: weights differ"


def test_fast_math_is_told(monkeypatch):
    monkeypatch.setattr(targets, "obstacle", lambda: "PYTORCH_MPS_FAST_MATH is set")
    assert doctor.runs_shaders("cpu") == "PYTORCH_MPS_FAST_MATH is set"
    assert "mps" in doctor.CHECKS[doctor.runs_shaders]


def test_a_layer_that_torch_runs_waits_for_nothing():
    with torch_shaders():
        assert doctor.multiplies("cpu") == ""
