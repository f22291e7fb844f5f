"""Every format's Metal kernel under AddressSanitizer and UBSan, each buffer at a guard page."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from support import DTYPES, GGUF_TYPES, GROUP_SETS, assert_same, gguf_fixture, group_fixture, rounded

import mlx_dequant as mxd
from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.diagnostics import sample_weights
from mlx_dequant.diagnostics.sample_weights import GGUF_FORMATS, GROUP_FORMATS

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run kernels with")

# One of each way to read memory: bytes, half words, words, tables; act-order, streams that straddle.
FEW_GGUF = ["q4_k", "q8_0", "mxfp4", "iq3_s"]
FEW_GROUPS = ["awq4", "gptq3", "ct3"]
full = pytest.mark.full


def sample(names, few):
    return [name if name in few else pytest.param(name, marks=full) for name in names]


def check(weight, dtype, sanitizer="address"):
    obstacle = emulator.obstacle(sanitizer)
    if obstacle:
        pytest.skip(obstacle)
    with mxd.use_backend("reference"), np.errstate(all="ignore"):
        expected = rounded(np.array(weight.dequantize(mx.float32)), dtype)
    with emulator.metal(sanitizer=sanitizer, order="shuffled"):
        assert_same(weight.dequantize(dtype), expected, str(weight))


@pytest.mark.parametrize("name", sample(GGUF_FORMATS, FEW_GGUF))
def test_gguf(name):
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 1), (9, 257), (3, 520)):
        check(sample_weights.gguf(name, rng, rows, columns), mx.float16)


@pytest.mark.parametrize("name", sample(GROUP_FORMATS, FEW_GROUPS))
def test_groups(name):
    rng = np.random.default_rng(2)
    for inputs, outputs in ((9, 32), (32, 264), (70, 1), (3, 2)):
        for group_size in (-1, 16):
            check(sample_weights.groups(name, rng, inputs, outputs, group_size), mx.float16)
    if name != "awq4":
        check(sample_weights.groups(name, rng, 70, 32, g_idx="uneven"), mx.float16)
    if name.startswith("ct"):
        check(sample_weights.groups(name, rng, 70, 9, zeros="none"), mx.float16)


@full
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_gguf_in_other_types(name, dtype):
    check(sample_weights.gguf(name, np.random.default_rng(3), 9, 257), dtype)


@full
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("scales", DTYPES, ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", GROUP_FORMATS)
def test_groups_in_other_types(name, scales, dtype):
    check(sample_weights.groups(name, np.random.default_rng(4), 70, 40, scales=scales), dtype)


@full
@pytest.mark.parametrize("name", GGUF_TYPES)
def test_gguf_fixtures(name):
    for blocks, _ in gguf_fixture(name).values():
        check(mxd.GGUFWeight(blocks, name), mx.float16)


@full
@pytest.mark.parametrize("name", GROUP_SETS)
def test_group_fixtures(name):
    weight, _ = group_fixture(name)
    check(weight, weight.dtype)


@pytest.mark.parametrize("name", ["q4_k", "gptq4", pytest.param("ct3", marks=full)])
def test_no_two_threads_write_one_weight(name):
    rng = np.random.default_rng(5)
    if name in GGUF_FORMATS:
        weight = sample_weights.gguf(name, rng, 3, 264)
    else:
        shape = (264, 16) if name.startswith("ct") else (16, 264)
        weight = sample_weights.groups(name, rng, *shape)
    check(weight, mx.float16, "thread")
