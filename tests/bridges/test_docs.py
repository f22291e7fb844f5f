"""What the page for torch users shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the bridge needs torch")

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "torch.md").read_text(), re.DOTALL)


TOKENIZER = """
import torch
from transformers import BatchEncoding

class AutoTokenizer:
    def from_pretrained(path):
        return AutoTokenizer()

    def __call__(self, text, return_tensors):
        return BatchEncoding({"input_ids": torch.tensor([[5]])})

    def decode(self, ids):
        return f"{len(ids)} tokens"
"""


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_its_four_programs():
    assert len(BLOCKS) == 4


@pytest.mark.full
def test_a_model(tmp_path):
    pytest.importorskip("mlx_lm", reason="the program needs transformers, which mlx-lm brings")
    from lm_models import transformers_model, write_gguf

    (program,) = [block for block in BLOCKS if "load_transformers(" in block]
    write_gguf(tmp_path / "model.gguf", "llama", transformers_model("llama"))
    # The model of a file, and a stand-in for the tokenizer of a folder.
    program = program.replace('load_transformers("folder")', f"load_transformers({str(tmp_path / 'model.gguf')!r})")
    program = program.replace("from transformers import AutoTokenizer", TOKENIZER)
    assert run("-c", program) == "9 tokens\n"


def test_a_layer_through_the_functions():
    (program,) = [block for block in BLOCKS if "awq_dequant_matmul(" in block]
    assert run("-c", program) == "torch.Size([1, 256]) torch.float16\n"


def test_tensors_across():
    (program,) = [block for block in BLOCKS if "to_mlx(tensor)" in block]
    run("-c", f"import torch\ntensor = torch.ones(3)\n{program}\nassert tensor.tolist() == [1, 1, 1]")


@pytest.mark.full
def test_install_and_uninstall():
    (program,) = [block for block in BLOCKS if "uninstall()" in block]
    program = "".join(line for line in program.splitlines(True) if "patch=True" not in line)
    run("-c", f"{program}\nimport sys\nassert 'dequant_int4' not in sys.modules")


@pytest.mark.full
def test_the_example():
    printed = run("examples/torch_swap.py")
    assert "plain torch" in printed
    assert "MLX, packed" in printed
