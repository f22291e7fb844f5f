"""Models whose weights are never evaluated leave nothing behind."""

import gc
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")

from mlx_dequant.lm import folder

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 1e4,
    "vocab_size": 64,
}


def resident() -> int:
    """Pages in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_as_it_is():
    def make(count: int) -> int:
        for _ in range(count):
            folder.empty_model(dict(CONFIG))
        return resident()

    before = make(30)
    assert make(60) - before < 256  # it was 6 pages and more a model
