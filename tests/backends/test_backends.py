"""Choosing a backend: with `use_backend`, by environment variable, or left alone."""

import asyncio
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest
from support import assert_same, bits, gguf_fixture

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.gpu.launch import apple_generation

NAMES = ["metal", "cuda", "host", "reference"]
OTHER = mxd.available_backends()[0]


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Sets the environment variable, or removes it, as a new process would find it."""

    def ask(name: str | None) -> None:
        if name is None:
            monkeypatch.delenv("MLX_DEQUANT_BACKEND", raising=False)
        else:
            monkeypatch.setenv("MLX_DEQUANT_BACKEND", name)
        backends._default.cache_clear()

    ask(None)
    yield ask
    monkeypatch.undo()
    backends._default.cache_clear()


def test_available_backends():
    """Best first; the reference always works; the list is the caller's own."""
    found = mxd.available_backends()
    assert [name for name in NAMES if name in found] == found
    assert found[-1] == "reference"
    assert ("metal" in found) == mx.metal.is_available()
    assert ("cuda" in found) == mx.cuda.is_available()
    found.clear()
    assert mxd.available_backends()


def test_the_best_is_the_default():
    assert mxd.current_backend() == mxd.available_backends()[0]


def test_use_backend_nests_and_ends():
    before = mxd.current_backend()
    with mxd.use_backend("reference"):
        assert mxd.current_backend() == "reference"
        with mxd.use_backend(OTHER):
            assert mxd.current_backend() == OTHER
        assert mxd.current_backend() == "reference"
        with pytest.raises(KeyError), mxd.use_backend(OTHER):
            raise KeyError
        assert mxd.current_backend() == "reference"
    assert mxd.current_backend() == before


def test_the_backend_in_force_does_the_work(monkeypatch):
    blocks, expected = gguf_fixture("q4_0")["real"]
    weight = mxd.GGUFWeight(blocks, "Q4_0")
    called = []
    for name in mxd.available_backends():
        module = backends._BACKENDS[name]
        real = module.dequantize
        monkeypatch.setattr(module, "dequantize", lambda *a, real=real, name=name: called.append(name) or real(*a))
    for name in mxd.available_backends():
        with mxd.use_backend(name):
            assert_same(weight.dequantize(mx.float32), bits(expected), name)
    assert called == mxd.available_backends()


def test_threads_and_tasks_choose_for_themselves():
    default = mxd.current_backend()
    found = {}

    def look():
        found["thread"] = mxd.current_backend()
        with mxd.use_backend(OTHER):
            found["chosen"] = mxd.current_backend()

    async def choose(name):
        with mxd.use_backend(name):
            await asyncio.sleep(0)
            return mxd.current_backend()

    async def tasks():
        return await asyncio.gather(choose(OTHER), choose("reference"), choose(OTHER))

    with mxd.use_backend("reference"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert mxd.current_backend() == "reference"
        assert asyncio.run(tasks()) == [OTHER, "reference", OTHER]
    assert found == {"thread": default, "chosen": OTHER}


def test_the_environment_chooses(asked):
    asked("reference")
    assert mxd.current_backend() == "reference"
    with mxd.use_backend(OTHER):
        assert mxd.current_backend() == OTHER
    asked("")
    assert mxd.current_backend() == mxd.available_backends()[0]


def test_the_environment_reaches_a_process(monkeypatch):
    monkeypatch.setenv("MLX_DEQUANT_BACKEND", "reference")
    script = "import mlx_dequant as mxd; print(mxd.current_backend())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("reference\n", "")


def test_an_unknown_backend(asked):
    said = "backend: found 'vulkan', expected one of metal, cuda, host, reference"
    with pytest.raises(ValueError, match=said), mxd.use_backend("vulkan"):
        pass
    asked("vulkan")
    with pytest.raises(ValueError, match=said):
        mxd.dequantize_gguf(np.zeros(18, np.uint8), "Q4_0")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in mxd.available_backends()])
def test_a_backend_that_does_not_work_here(name):
    said = f"backend '{name}' does not work here; available: {', '.join(mxd.available_backends())}"
    with pytest.raises(ValueError, match=said), mxd.use_backend(name):
        pass
    assert mxd.current_backend() == mxd.available_backends()[0]


@pytest.mark.parametrize(
    ("architecture", "darwin", "generation"),
    [
        ("applegpu_g13g", "25.2.0", 13),
        ("applegpu_g16s", "26.0.1", 16),
        ("applegpu_g17g", "25.2.0", 17),
        ("applegpu_g17s", "25.1.0", 16),
        ("applegpu_g17s", "", 16),
        ("applegpu_g17p", "25.2.0", 16),
        ("applegpu_g18p", "26.0.0", 18),
        ("", "25.2.0", 0),
        ("some other gpu 17", "25.2.0", 0),
    ],
)
def test_the_generation_of_a_mac(architecture, darwin, generation):
    assert apple_generation(architecture, darwin) == generation
