"""vLLM's module under its own import names, in a process of its own: before, during and after `install()`."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the bridge needs torch")

ROOT = Path(__file__).parents[2]
FOLDER = "vllm/model_executor/layers/quantization/utils"

# A module that imports and remembers as vLLM's does.
GLOBALS = """
    import torch

    _metal_dequant = None
    _metal_import_attempted = False
    _metal_dequant_gguf = None
    _metal_gguf_import_attempted = False

    def _get_metal_dequant():
        global _metal_dequant, _metal_import_attempted
        if not _metal_import_attempted:
            _metal_import_attempted = True
            try:
                import dequant_int4
                _metal_dequant = dequant_int4
            except ImportError:
                pass
        return _metal_dequant

    def _get_metal_dequant_gguf():
        global _metal_dequant_gguf, _metal_gguf_import_attempted
        if not _metal_gguf_import_attempted:
            _metal_gguf_import_attempted = True
            try:
                import dequant_gguf
                _metal_dequant_gguf = dequant_gguf
            except ImportError:
                pass
        return _metal_dequant_gguf

    def awq_dequant_matmul(x, layer, bias, quant_config):
        kernels = _get_metal_dequant()
        if kernels is None:
            return "plain torch"
        return x @ kernels.dequantize_awq(layer.qweight, layer.scales, layer.qzeros, quant_config.group_size)

    def gguf_dequant_on_mps(W, quant_type, m, n, dtype=None):
        kernels = _get_metal_dequant_gguf()
        return "plain torch" if kernels is None else kernels.dequantize_gguf(W, quant_type, m, n, dtype)
"""

CACHED = """
    from functools import lru_cache

    @lru_cache(maxsize=1)
    def _get_metal_dequant():
        try:
            import dequant_int4
        except ImportError:
            return None
        return dequant_int4

    @lru_cache(maxsize=1)
    def _get_metal_dequant_gguf():
        try:
            import dequant_gguf
        except ImportError:
            return None
        return dequant_gguf
"""

START = """
    import sys
    sys.path[:0] = [{stub!r}, {tests!r}]
    import torch
    from bridge_support import awq_layer, awq_plain
    from mlx_dequant import bridges
    NAME = "vllm.model_executor.layers.quantization.utils.mps_dequant"
    layer, config = awq_layer()
    x = torch.eye(256).half()
    dense = awq_plain(layer.qweight, layer.scales, layer.qzeros, 64)
"""


@pytest.fixture
def run(tmp_path, request):
    """Runs a program in which vLLM is a stub whose `mps_dequant` is the given text."""

    def go(stub, program):
        folder = tmp_path
        for part in FOLDER.split("/"):
            folder /= part
            folder.mkdir()
            (folder / "__init__.py").touch()
        (folder / "mps_dequant.py").write_text(textwrap.dedent(stub))
        start = START.format(stub=str(tmp_path), tests=str(request.path.parents[1]))
        text = textwrap.dedent(start) + textwrap.dedent(program)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done

    return go


def test_a_failed_import_is_forgotten_and_remembered_again(run):
    run(
        GLOBALS,
        """
        from vllm.model_executor.layers.quantization.utils import mps_dequant as theirs
        own = dict(vars(theirs))
        for _ in range(2):
            assert theirs.awq_dequant_matmul(x, layer, None, config) == "plain torch"
            assert theirs.gguf_dequant_on_mps(None, 8, 1, 32) == "plain torch"
            bridges.install()
            import dequant_int4, dequant_gguf
            assert torch.equal(dequant_int4.dequantize_awq(layer.qweight, layer.scales, layer.qzeros, 64), dense)
            assert torch.equal(theirs.awq_dequant_matmul(x, layer, None, config), dense)
            assert theirs.gguf_dequant_on_mps(torch.zeros(34).byte(), 8, 1, 32).shape == (1, 32)
            assert all(vars(theirs)[name] is own[name] for name in own if callable(own[name]))
            bridges.uninstall()
            assert "dequant_int4" not in sys.modules and "dequant_gguf" not in sys.modules
        assert theirs.awq_dequant_matmul(x, layer, None, config) == "plain torch"
        """,
    )


@pytest.mark.full
def test_installed_before_vllm_is_loaded(run):
    run(
        GLOBALS,
        """
        bridges.install()
        assert NAME not in sys.modules
        from vllm.model_executor.layers.quantization.utils import mps_dequant as theirs
        assert torch.equal(theirs.awq_dequant_matmul(x, layer, None, config), dense)
        bridges.uninstall()
        assert theirs._get_metal_dequant() is None
        """,
    )


def test_a_patch_replaces_the_functions_and_is_undone(run):
    run(
        GLOBALS,
        """
        bridges.install(patch=True)
        theirs = sys.modules[NAME]
        from mlx_dequant.bridges import mps_dequant as ours
        assert theirs.awq_dequant_matmul is ours.awq_dequant_matmul
        assert theirs._get_metal_dequant is ours._get_metal_dequant
        y = theirs.awq_dequant_matmul(x, layer, None, config)
        assert torch.equal(y, dense)
        # Every type, IQ among them.
        assert theirs.gguf_dequant_on_mps(torch.zeros(66).byte(), 16, 1, 256).shape == (1, 256)
        assert not hasattr(theirs, "gptq_dequant_matmul")
        bridges.install(patch=True)
        bridges.uninstall()
        assert theirs.awq_dequant_matmul.__module__ == NAME
        assert theirs.awq_dequant_matmul(x, layer, None, config) == "plain torch"
        """,
    )


GGUF_METHOD = """
    import sys
    from types import ModuleType

    class GGUFLinearMethod:
        def apply(self, layer, x, bias=None):
            return "vLLM's own"

    gguf = sys.modules["vllm.model_executor.layers.quantization.gguf"] = ModuleType("gguf")
    gguf.GGUFLinearMethod = GGUFLinearMethod
"""


def test_a_patch_makes_gguf_layers_multiply_packed(run):
    run(
        GLOBALS + GGUF_METHOD,
        """
        from types import SimpleNamespace
        from vllm.model_executor.layers.quantization.utils import mps_dequant as theirs
        method = theirs.GGUFLinearMethod()
        blocks = torch.zeros(8, 144, dtype=torch.uint8)
        layer = SimpleNamespace(qweight=blocks, qweight_type=SimpleNamespace(weight_type=12))
        assert method.apply(layer, x) == "vLLM's own"
        bridges.install(patch=True)
        assert torch.equal(method.apply(layer, x, torch.ones(8)), torch.ones(256, 8).half())
        assert method.apply(layer, SimpleNamespace(is_cuda=True)) == "vLLM's own"
        bridges.uninstall()
        assert method.apply(layer, x) == "vLLM's own"
        """,
    )


def test_a_module_that_was_loaded_again_is_patched_again(run):
    run(
        GLOBALS + GGUF_METHOD,
        """
        import importlib
        from mlx_dequant.bridges import mps_dequant as ours

        def patched(module):
            return module.awq_dequant_matmul is ours.awq_dequant_matmul

        bridges.install(patch=True)
        first = sys.modules[NAME]
        importlib.reload(first)
        reloaded, method = first.awq_dequant_matmul, first.GGUFLinearMethod
        assert not patched(first) and method.apply.__name__ == "apply"
        bridges.install(patch=True)
        assert patched(first) and method.apply.__name__ == "packed_apply"
        del sys.modules[NAME]
        second = importlib.import_module(NAME)
        bridges.install(patch=True)
        bridges.install(patch=True)
        assert second is not first and patched(first) and patched(second)
        bridges.uninstall()
        assert first.awq_dequant_matmul is reloaded and method.apply.__name__ == "apply"
        for module in (first, second):
            assert module.awq_dequant_matmul(x, layer, None, config) == "plain torch"
        """,
    )


@pytest.mark.full
def test_cached_getters_are_cleared(run):
    run(
        CACHED,
        """
        from vllm.model_executor.layers.quantization.utils import mps_dequant as theirs
        assert theirs._get_metal_dequant() is None and theirs._get_metal_dequant_gguf() is None
        bridges.install()
        import dequant_int4, dequant_gguf
        assert theirs._get_metal_dequant() is dequant_int4
        assert theirs._get_metal_dequant_gguf() is dequant_gguf
        bridges.uninstall()
        assert theirs._get_metal_dequant() is None
        """,
    )


@pytest.mark.full
def test_real_packages_are_never_shadowed(run, tmp_path):
    (tmp_path / "dequant_int4.py").write_text("real = True")
    run(
        GLOBALS,
        """
        from vllm.model_executor.layers.quantization.utils import mps_dequant as theirs
        kept = theirs._get_metal_dequant()
        assert kept.real
        assert theirs._get_metal_dequant_gguf() is None
        bridges.install()
        import dequant_int4, dequant_gguf
        assert dequant_int4.real and theirs._get_metal_dequant() is kept
        assert theirs._get_metal_dequant_gguf() is dequant_gguf
        bridges.uninstall()
        assert sys.modules["dequant_int4"] is kept and theirs._get_metal_dequant() is kept
        assert theirs._get_metal_dequant_gguf() is None
        """,
    )


@pytest.mark.full
def test_a_patch_without_vllm_names_what_it_looked_for(run):
    run(
        GLOBALS,
        """
        sys.modules["vllm"] = None
        try:
            bridges.install(patch=True)
        except ImportError as error:
            assert "vllm.model_executor.layers.quantization.utils.mps_dequant" in str(error)
            assert "pull request 36523" in str(error)
            assert "dequant_int4" not in sys.modules
        else:
            raise AssertionError
        """,
    )


@pytest.mark.full
def test_a_patch_of_a_module_without_the_functions_names_them(run):
    run(
        "def something_else(): pass",
        """
        try:
            bridges.install(patch=True)
        except ImportError as error:
            assert "awq_dequant_matmul" in str(error) and "gguf_dequant_on_mps" in str(error)
            assert "pull request 36523" in str(error)
            assert "dequant_int4" not in sys.modules
        else:
            raise AssertionError
        """,
    )


def python(program):
    options = {"capture_output": True, "text": True, "timeout": 240, "cwd": ROOT}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_bridges_does_not_import_torch():
    python(
        """
        import sys
        import mlx_dequant.bridges
        assert "torch" not in sys.modules
        """
    )


def test_the_entry_point_is_the_plugin():
    settings = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."vllm.general_plugins"]\nmlx_dequant = "mlx_dequant_vllm:plugin"\n' in settings
    assert 'py-modules = ["mlx_dequant_vllm"]' in settings


@pytest.mark.parametrize("missing", ["mlx", "mlx.core", "torch"])
def test_the_plugin_is_silent_where_something_is_missing(missing):
    python(
        f"""
        import sys
        sys.modules[{missing!r}] = None
        import mlx_dequant_vllm
        mlx_dequant_vllm.plugin()
        assert "dequant_int4" not in sys.modules
        """
    )


@pytest.mark.full
def test_the_plugin_warns_where_something_is_broken():
    python(
        """
        import logging
        import sys
        import mlx.core as mx
        def broken(): raise RuntimeError("a driver is missing")
        mx.metal.is_available = broken
        import mlx_dequant_vllm
        seen = []
        handler = logging.Handler()
        handler.emit = lambda record: seen.append(record.getMessage())
        logging.getLogger("mlx_dequant").addHandler(handler)
        mlx_dequant_vllm.plugin()
        assert seen == ["mlx-dequant is not installed into vLLM: RuntimeError('a driver is missing')"], seen
        assert "dequant_int4" not in sys.modules
        """
    )


@pytest.mark.parametrize("mps", [False, True], ids=["without MPS", "with MPS"])
def test_the_plugin_installs_where_both_are_there(mps):
    python(
        f"""
        import sys
        import mlx.core as mx, torch
        mx.metal.is_available = lambda: {mps}
        torch.backends.mps.is_available = lambda: {mps}
        import mlx_dequant_vllm
        mlx_dequant_vllm.plugin()
        assert ("dequant_int4" in sys.modules) is {mps}
        """
    )
