"""Choosing the host's precision: with `use_backend`, by environment variable, or left alone."""

import mlx.core as mx
import pytest

import mlx_dequant as mxd
from mlx_dequant.backends.host import precision


@pytest.fixture(autouse=True)
def asked(monkeypatch, host):
    """Sets the environment variable, as a new process would find it."""

    def ask(name):
        monkeypatch.setenv("MLX_DEQUANT_PRECISION", name)
        precision._setting.cache_clear()

    ask("")
    yield ask
    monkeypatch.undo()
    precision._setting.cache_clear()


def test_use_backend_nests_and_ends():
    assert precision.current() == "float32"
    with mxd.use_backend("host", precision="int8"):
        assert precision.current() == "int8"
        with mxd.use_backend("host"):
            assert precision.current() == "float32"
        with pytest.raises(KeyError), mxd.use_backend("host", "float32"):
            raise KeyError
        assert precision.current() == "int8"
    assert precision.current() == "float32"


def test_the_environment_variable(asked):
    asked("int8")
    assert precision.current() == "int8"
    with mxd.use_backend("host", precision="float32"):
        assert precision.current() == "float32"
    with mxd.use_backend("host"):
        assert precision.current() == "int8"


@pytest.mark.parametrize("name", ["int4", "INT8", "fp32"])
def test_another_precision_is_refused(asked, name):
    with (
        pytest.raises(ValueError, match=f"^precision: found '{name}', expected one of float32, int8$"),
        mxd.use_backend("host", precision=name),
    ):
        pass
    asked(name)
    weight = mxd.GGUFWeight(mx.zeros((2, 34), mx.uint8), "Q8_0")
    with pytest.raises(ValueError, match=f"^MLX_DEQUANT_PRECISION: found '{name}', expected one of float32, int8$"):
        weight.linear(mx.ones(32))


def test_other_backends_are_refused():
    with (
        pytest.raises(ValueError, match=r"^precision: found 'int8' for backend 'reference', expected backend 'host'$"),
        mxd.use_backend("reference", precision="int8"),
    ):
        pass
    with mxd.use_backend("reference", precision="float32"):
        assert mxd.current_backend() == "reference"
