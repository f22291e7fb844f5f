"""Models of the Hugging Face Hub, from a server of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from hub_server import hub
from lm_folders import write_folder
from lm_models import transformers_model, write_gguf

import mlx_dequant as mxd

# The endpoint is read when huggingface_hub is imported: a process of its own, one for all names.
PROGRAM = """
import json, sys
import mlx_dequant as mxd, mlx_lm
mxd.lm.install()
for name in sys.argv[1:]:
    try:
        model, tokenizer, config = mlx_lm.load(name, return_config=True)
        layer = model.layers[0].mlp.up_proj
        title = layer.weight.format.title if hasattr(layer, "dense") else type(layer).__name__
        print(json.dumps([title, config["model_type"], tokenizer.encode("the")]))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    model = transformers_model("llama", hidden_size=256, intermediate_size=192)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    for name in ("one", "two"):
        (folder / "some" / name).mkdir(parents=True)
    write_gguf(folder / "some/one/model-Q8_0.gguf", "llama", model)
    (folder / "some/one/mmproj-model.gguf").write_bytes(b"an image's projector")
    (folder / "some/one/config.json").write_text('{"model_type": "llama"}')
    (folder / "some/two/deep").mkdir()
    shutil.copy(folder / "some/one/model-Q8_0.gguf", folder / "some/two/deep/a.Q8_0.gguf")
    write_gguf(folder / "some/two/b.F16.gguf", "llama", model, "F16")
    config = json.loads(model.config.to_json_string())
    write_folder(folder / "some/gptq", "gptq", config, weights)
    # A name that its tool gives, and that mlx-lm's patterns leave out.
    (folder / "some/gptq/model.safetensors").rename(folder / "some/gptq/gptq_model-4bit-64g.safetensors")
    mxd.lm.load(folder / "some/one/model-Q8_0.gguf")[1].save_pretrained(folder / "some/gptq")
    return folder


def run(endpoint: str, cache, *names: str, **variables: str) -> list:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), **variables}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.full
def test_names_of_the_hub(repositories, tmp_path):
    with hub(repositories) as (endpoint, sent):
        found = run(
            endpoint,
            tmp_path,
            "some/one",
            "some/two:deep/a.Q8_0.gguf",
            "some/gptq",
            "some/two",
            "some/two:c.gguf",
            "some/nobody",
        )
    ids = mxd.lm.load(repositories / "some/one/model-Q8_0.gguf")[1].encode("the")
    assert found[:3] == [["Q8_0", "llama", ids], ["Q8_0", "llama", ids], ["GPTQ 4-bit", "llama", ids]]
    several = "some/two: found b.F16.gguf, deep/a.Q8_0.gguf"
    assert found[3] == f"FormatError: {several} as GGUF models, expected one: give some/two:FILE"
    assert found[4] == f"FileNotFoundError: {several}, expected c.gguf"
    assert found[5].startswith("RepositoryNotFoundError: ")
    assert sorted(sent) == sorted({*sent}), "a file was sent twice"
    assert {"some/two/b.F16.gguf", "some/one/mmproj-model.gguf"}.isdisjoint(sent)

    # Offline, from the cache.
    found = run("http://127.0.0.1:9", tmp_path, "some/one", "some/gptq", HF_HUB_OFFLINE="1")
    assert [row[0] for row in found] == ["Q8_0", "GPTQ 4-bit"]
