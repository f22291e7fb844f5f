"""Parts of weights that are read from files: the same bits as the whole weight's, of real tools' checkpoints."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from folders import DOWN, module, write_folder
from gguf_bytes import gguf_bytes
from support import FIXTURES, GROUP_SETS, assert_same, bits, group_settings

import mlx_dequant as mxd
from mlx_dequant.loading import mapped
from mlx_dequant.weights.cut import Cut

LAYOUTS = sorted(path.name for path in (FIXTURES / "layouts").iterdir())
QUICK = ("gptq_w4_g32_actorder_sym_v1_4l", "gptq_w3_g64_asym_v1_4l", "ct_w8a16_gchan_sym_4l", "awq_w4_g64_gemm_4l")


def halves(length, unit):
    middle = max(length // 2 // unit, 1) * unit
    return ((0, middle), (middle, length)) if middle < length else ((0, length),)


def matrix(weight):
    dense = np.array(weight.dequantize(mx.float32))
    return dense.T if weight.matrix.layout == "KN" else dense


def assert_parts(weights, name):
    whole = weights[name]
    dense, (row, column) = matrix(whole), weights.units(name, whole.in_features)
    for first, end in halves(whole.out_features, row):
        part = weights.part(name, Cut("rows", whole.out_features, ((first, end),)))
        assert_same(mx.array(matrix(part)), bits(np.ascontiguousarray(dense[first:end])), f"{name} rows")
    for first, end in halves(whole.in_features, column):
        part = weights.part(name, Cut("columns", whole.in_features, ((first, end),)))
        assert_same(mx.array(matrix(part)), bits(np.ascontiguousarray(dense[:, first:end])), f"{name} columns")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in GROUP_SETS]
)
def test_a_group_set(name, tmp_path):
    tensors = {key: array for key, array in module(DOWN, name).items() if not key.endswith("expected")}
    assert_parts(mxd.load(write_folder(tmp_path, tensors, group_settings(name))).weights, DOWN)


@pytest.mark.full
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_is_converted(name):
    weights = mxd.load(FIXTURES / "layouts" / name).weights
    packed = [key for key in weights if isinstance(weights[key], mxd.QuantizedWeight)]
    assert packed
    for key in packed:
        assert_parts(weights, key)


def test_a_gguf_file(tmp_path):
    blocks = np.resize(np.arange(251, dtype=np.uint8), (8, 4 * 34))
    blocks.reshape(-1, 34)[:, 1] = 0x3C  # scales that are numbers
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes({"weight": (8, (8, 128), blocks.tobytes())}))
    weights = mxd.load(path).weights
    before = mapped.bytes_read()
    part = weights.part("weight", Cut("columns", 128, ((32, 96),)))
    assert mapped.bytes_read() - before == blocks.nbytes // 2
    assert np.array_equal(np.array(part.arrays["blocks"]).reshape(8, -1), blocks[:, 34:102])
    with pytest.raises(mxd.FormatError, match=r"model.gguf: tensor 'weight': columns: found 0 to 16 of 128, expected"):
        weights.part("weight", Cut("columns", 128, ((0, 16),)))
    with pytest.raises(mxd.FormatError, match=r"tensor 'weight': shape: found \(8, 128\), expected a matrix of 9 rows"):
        weights.part("weight", Cut("rows", 9, ((0, 4),)))


def test_a_tensor_of_another_shape(tmp_path):
    name = "gptq_w4_g64_asym_v1_4l"
    tensors = {key: array for key, array in module(DOWN, name).items() if not key.endswith("expected")}
    tensors[f"{DOWN}.scales"] = tensors[f"{DOWN}.scales"][:, :-8]
    weights = mxd.load(write_folder(tmp_path, tensors, group_settings(name))).weights
    rows = tensors[f"{DOWN}.qweight"].shape[1]
    with pytest.raises(mxd.FormatError, match=rf"module '{DOWN}': scales: found shape .*, expected {rows} on axis -1"):
        weights.part(DOWN, Cut("rows", rows, ((0, 8),)))


def test_part_of_a_group_may_only_be_at_the_end(tmp_path):
    tensors = {
        key: array for key, array in module(DOWN, "gptq_w4_g64_asym_v1_4l").items() if not key.endswith("expected")
    }
    for part in ("scales", "qzeros", "qweight"):
        tensors[f"{DOWN}.{part}"] = tensors[f"{DOWN}.{part}"][: 20 if part == "qweight" else 3]
    tensors.pop(f"{DOWN}.g_idx", None)
    weights = mxd.load(write_folder(tmp_path, tensors, group_settings("gptq_w4_g64_asym_v1_4l"))).weights
    dense = matrix(weights[DOWN])
    part = matrix(weights.part(DOWN, Cut("columns", 160, ((0, 64), (128, 160)))))
    assert np.array_equal(part, np.hstack([dense[:, :64], dense[:, 128:]]))
    with pytest.raises(mxd.FormatError, match="columns: found 128 to 160 of 160, expected multiples of 64"):
        weights.part(DOWN, Cut("columns", 160, ((128, 160), (0, 64))))
