"""Fixtures of every test."""

import os

import pytest

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.backends.host import compiler, driver, lazy, library

# On a GPU, MLX's own float32 products, which tests compare with, would be of TF32's 11 bits.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# The processes that xdist starts are one to a core already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files whose tests of a format take seconds, and the formats of which `make test` runs them. The others' are `full`,
# unless a test has none of these.
QUICK = {
    "test_msl_check": ("q4_k", "iq3_s", "awq4", "ct4"),
    "test_nvrtc": ("q4_k",),
    "test_cuda_emulated": ("q4_k", "gptq4", "ct4"),
    "test_cuda_qmm": ("q4_k", "gptq4", "q6_k"),
    "test_cuda_qmv_mma": ("q4_k", "gptq4", "awq4"),
    "test_linear_emulated": ("q4_0", "q4_k", "q8_0", "awq4", "gptq4", "ct4"),
    "test_dequantize_emulated": ("q4_k", "q6_k", "iq2_xs", "awq4", "gptq4", "ct4"),
    "test_dequantize": ("q4_k", "q6_k", "iq2_xs", "awq4", "gptq4", "ct4"),
    "test_gather_linear_emulated": ("q8_0", "gptq4", "ct4"),
    "test_sanitizers": ("q4_k", "gptq4", "ct4"),
    "test_gather_linear": ("q4_k", "q8_0", "awq4", "gptq4", "ct4"),
    "test_bench": ("q4_k", "awq4"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what is `full` by `QUICK`, but never all that `make test` would have of a test."""
    tests = {}
    for item in items:
        if item.path.stem in QUICK and not item.get_closest_marker("full"):
            tests.setdefault((item.path, item.originalname), []).append(item)
    for (path, _), found in tests.items():
        slow = [item for item in found if _formats(item) - set(QUICK[path.stem])]
        for item in slow if len(slow) < len(found) else ():
            item.add_marker(pytest.mark.full)


def _params(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def _formats(item):
    """The formats among a test's parameters."""
    return {name for name in _params(item).values() if isinstance(name, str)} & set(mxd.formats())


def pytest_itemcollected(item):
    """With `--dist loadgroup`, one process of xdist's runs what is of a format and a type, or else of a file.

    MLX keeps a GPU's programs in memory alone: each process compiles those that it launches.
    """
    if not item.config.getoption("loadgroup", False):
        return
    params = _params(item)
    name, dtype = params.get("name"), str(params.get("dtype", ""))
    group = f"{name} {dtype.rpartition('.')[2]}" if name in mxd.formats() else item.path.stem
    item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(params=mxd.available_backends())
def backend(request):
    """Each backend that works here, in force during the test."""
    with mxd.use_backend(request.param):
        yield request.param


@pytest.fixture
def host():
    """The host backend in force, where there is a compiler."""
    if "host" not in mxd.available_backends():
        pytest.skip("no C++ compiler was found")
    with mxd.use_backend("host"):
        yield


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Nothing compiled and no compiler chosen yet; the folder is the empty cache."""
    caches = (
        compiler.compiler,
        library._library,
        driver.driver,
        lazy._loaded,
        backends._works,
        backends._checked,
        backends._default,
    )
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLX_DEQUANT_CACHE", str(folder))
    for one in caches:
        one.cache_clear()
    yield folder
    for one in caches:
        one.cache_clear()


@pytest.fixture
def watched():
    """Options under which AddressSanitizer sees every read, where it can."""
    import emulator  # not everything that runs tests has what it needs

    obstacle = emulator.obstacle("address")
    if obstacle:
        pytest.skip(obstacle)
    return {"sanitizer": "address"}
