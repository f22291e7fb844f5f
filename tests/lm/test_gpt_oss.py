"""gpt-oss's folders of MXFP4 experts, against transformers with the same weights unpacked."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_dequant.nn import PackedSwitchLinear

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
torch = pytest.importorskip("torch", reason="torch is not installed")

import gguf  # noqa: E402
from lm_experts import mixture  # noqa: E402
from lm_models import difference, rope  # noqa: E402
from lm_zoo import opened  # noqa: E402

IDS = np.random.default_rng(0).integers(0, 288, (2, 24))
MXFP4 = gguf.GGMLQuantizationType.MXFP4


def write(path, model) -> None:
    """Writes the model with packed experts, which it then has unpacked."""
    stored = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith(("gate_up_proj", "experts.down_proj")):
            stored[name] = mx.array(tensor.numpy())
            continue
        rows = np.ascontiguousarray(tensor.swapaxes(1, 2).numpy())
        data = gguf.quants.quantize(rows, MXFP4)
        tensor.copy_(torch.from_numpy(gguf.quants.dequantize(data, MXFP4)).reshape(rows.shape).swapaxes(1, 2))
        blocks = data.reshape(*rows.shape[:2], -1, 17)
        nibbles = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)
        stored[f"{name}_blocks"] = mx.array(nibbles[..., ::2] | nibbles[..., 1::2] << 4)
        stored[f"{name}_scales"] = mx.array(np.ascontiguousarray(blocks[..., 0]))
    path.mkdir()
    mx.save_safetensors(str(path / "model.safetensors"), stored)
    config = json.loads(model.config.to_json_string()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("truncate", [False, True])
def test_a_folder_computes_what_transformers_does(truncate, tmp_path):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "truncate": truncate}
    theirs = mixture("gpt_oss", **rope(15e4, **scaling))
    write(tmp_path / "model", theirs)
    ours = opened(tmp_path / "model")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    assert difference(np.array(ours(mx.array(IDS))), expected) < 5e-5
    stacks = [layer for _, layer in ours.named_modules() if isinstance(layer, PackedSwitchLinear)]
    assert [layer.weight.format.name for layer in stacks] == ["mxfp4"] * 9
