"""What a mixture of some 200 MB takes while it is loaded, in a process of its own: its size, and little more."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_large import EXPERTS, write_large_folder, write_large_gguf

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
# All that loading imports is imported before: the small model is of the same kind.
SCRIPT = """
import sys
import mlx_dequant as mxd
from mlx_dequant.nn import PackedSwitchLinear

def peak():  # ru_maxrss would be no less than the parent's
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

mxd.lm.load(sys.argv[1])
before = peak()
model, _ = mxd.lm.load(sys.argv[2])
print(peak() - before)
stacks = [layer.weight for _, layer in model.named_modules() if isinstance(layer, PackedSwitchLinear)]
print(sum(weight.nbytes for weight in stacks), *(weight.experts for weight in stacks))
"""


@pytest.mark.parametrize("form", ["gptq", "gptq act-order", "awq", "compressed-tensors", "gguf", "gguf, joined"])
def test_a_mixture_is_never_in_memory_twice(form, tmp_path, tokenizer):
    from lm_experts import mixture
    from lm_gguf_experts import write_mixture

    write_mixture(tmp_path / "small.gguf", "qwen3moe", mixture("qwen3_moe"))
    large = tmp_path / "large"
    large.mkdir()
    if form.startswith("gguf"):
        write_large_gguf(large / "model.gguf", "joined" in form)
    else:
        write_large_folder(large, form)
        tokenizer.save_pretrained(large)
    size = sum(file.stat().st_size for file in large.iterdir())
    assert size > 190e6
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "small.gguf", large], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    grown, held, *experts = map(int, done.stdout.split())
    assert experts == [EXPERTS] * 3 and held > 0.95 * size
    # A stack is a third of it: a second copy of one would be found.
    assert held < grown < 1.1 * size + 20e6
