"""SmolLM2 from its GGUF file, and encoded anew: the same answers as transformers with the weights unpacked."""

from __future__ import annotations

import subprocess
import sys

import gguf
import mlx.core as mx
import numpy as np
import pytest

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from gguf_encoders import iq4_nl, q6_k
from lm_smollm2 import (
    PROMPTS,
    assert_same_answers,
    chat,
    model_file,
    perplexities,
    perplexity,
    reference,
    rewrite,
    unpacked,
)

PERPLEXITY = "33.88"  # of TEXT, by transformers with the weights unpacked


@pytest.fixture(scope="module")
def loaded():
    """The model and its tokenizer."""
    return mxd.lm.load(model_file(), dtype=mx.float32)


@pytest.fixture(scope="module")
def smollm2(loaded):
    """The model, its tokenizer, and transformers' model."""
    return *loaded, reference(unpacked(model_file()))


@pytest.mark.full
def test_answers_are_those_of_the_unpacked_model(smollm2, record_property, capsys):
    difference = assert_same_answers(*smollm2)
    with capsys.disabled():
        print(f"\nSmolLM2 Q4_1: largest difference of logits {difference:.2g}")
    record_property("largest difference of logits", difference)
    assert difference < 1e-3  # of logits up to about 30


@pytest.mark.full
def test_perplexity_is_that_of_the_unpacked_model(smollm2):
    ours, theirs = perplexities(*smollm2)
    assert f"{ours:.4g}" == f"{theirs:.4g}" == PERPLEXITY


def test_a_text_and_an_answer(loaded):
    from mlx_lm import generate

    model, tokenizer = loaded
    assert f"{perplexity(*loaded):.4g}" == PERPLEXITY
    text = generate(model, tokenizer, chat(tokenizer, PROMPTS[0]), max_tokens=8)
    assert text == "The capital of France is Paris."


@pytest.mark.full
def test_a_cache_goes_on(loaded):
    from mlx_lm import generate, stream_generate
    from mlx_lm.models.cache import make_prompt_cache

    model, tokenizer = loaded
    prompt = chat(tokenizer, PROMPTS[0])
    text = generate(model, tokenizer, prompt, max_tokens=16)
    assert text == "The capital of France is Paris."
    cache = make_prompt_cache(model)
    first = [response.text for response in stream_generate(model, tokenizer, prompt, max_tokens=16, prompt_cache=cache)]
    assert "".join(first) == text
    more = tokenizer.encode("\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n")
    assert "Rome" in generate(model, tokenizer, more, max_tokens=16, prompt_cache=cache)


def plain(kind: str):
    return lambda name, values: (gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]), kind)


def k_quants(name: str, values: np.ndarray):
    """Q6_K where rows are whole blocks of 256, which those of 576 are not."""
    if values.shape[1] % 256:
        return plain("Q5_1")(name, values)
    return q6_k(values), "Q6_K"


VARIANTS = {
    "Q8_0": plain("Q8_0"),
    "Q4_0": plain("Q4_0"),
    "Q5_0": plain("Q5_0"),
    "BF16": plain("BF16"),
    "Q6_K": k_quants,
    "IQ4_NL": lambda name, values: (iq4_nl(values), "IQ4_NL"),
}


@pytest.mark.full
@pytest.mark.parametrize("name", VARIANTS)
def test_other_encodings(name, tmp_path, capsys):
    path = tmp_path / "model.gguf"
    rewrite(model_file(), path, VARIANTS[name])
    model, tokenizer = mxd.lm.load(path, dtype=mx.float32)
    assert name in {layer.weight.format.title for _, layer in model.named_modules() if hasattr(layer, "to_lora")}
    expected = reference(unpacked(path))
    difference = assert_same_answers(model, tokenizer, expected)
    ours, theirs = perplexities(model, tokenizer, expected)
    with capsys.disabled():
        print(f"\nSmolLM2 {name}: largest difference of logits {difference:.2g}, perplexity {ours:.4g}")
    assert f"{ours:.4g}" == f"{theirs:.4g}"


MEASURE = """
import sys, time, mlx.core as mx, mlx_dequant as mxd, mlx_lm.utils, transformers
from pathlib import Path
path = Path(sys.argv[1])
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
begin = time.perf_counter()
with path.open("rb") as file:
    while file.read(1 << 20): pass
read = time.perf_counter() - begin
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
begin = time.perf_counter()
model, tokenizer = mxd.lm.load(path)
print(time.perf_counter() - begin, read, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process's memory from /proc")
def test_loading_takes_little_memory(capsys):
    path = model_file()
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, read, peak = map(float, done.stdout.split()[-3:])
    packed = path.stat().st_size
    with capsys.disabled():
        print(
            f"\nloaded in {seconds:.2f} s (a plain read takes {read:.2f} s); "
            f"{(peak - packed) / 1e6:.0f} MB of memory beyond the {packed / 1e6:.0f} MB of the file"
        )
    assert peak < packed + 200e6
