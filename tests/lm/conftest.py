"""What tests of language models share."""

import pytest

import mlx_dequant as mxd


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A small tokenizer, as `lm.load` gives it."""
    from lm_models import transformers_model, write_gguf

    path = tmp_path_factory.mktemp("tokenizer") / "model.gguf"
    write_gguf(path, "llama", transformers_model("llama"))
    return mxd.lm.load(path)[1]
