"""Layouts of integers, converted when they are read. Each is packed here by its tool's formula, field by field."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from folders import DOWN, write_folder

import mlx_dequant as mxd

IN, OUT, SIZE = 128, 64, 64
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": SIZE, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": SIZE, "zero_point": True}
GROUP = np.arange(IN) // SIZE


def random(bits=4, outputs=OUT, inputs=IN):
    """Codes [in, out], zero points and scales [groups, out], and the weights [in, out]."""
    rng = np.random.default_rng(bits)
    codes, zeros = rng.integers(0, 1 << bits, (inputs, outputs)), rng.integers(0, 1 << bits, (inputs // SIZE, outputs))
    scales = (rng.random(zeros.shape) * 0.05 + 0.01).astype(np.float16)
    group = np.arange(inputs) // SIZE
    return codes, zeros, scales, (codes - zeros[group]).astype(np.float32) * scales[group].astype(np.float32)


def stream(codes, bits):
    """Codes [..., n] as words of a dense stream, by Python's integers."""
    rows = codes.reshape(-1, codes.shape[-1]).tolist()
    numbers = [sum(code << bits * i for i, code in enumerate(row)) for row in rows]
    size = -(-codes.shape[-1] * bits // 32) * 4
    words = np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers), np.int32)
    return words.reshape(*codes.shape[:-1], -1)


def spaced(codes, bits):
    """Codes [..., n] as words of 32 // bits codes."""
    return np.concatenate(
        [stream(codes[..., i : i + 32 // bits], bits) for i in range(0, codes.shape[-1], 32 // bits)], -1
    )


def load(path, quantization, **parts):
    tensors = {f"{DOWN}.{part}": mx.array(np.ascontiguousarray(value)) for part, value in parts.items()}
    return mxd.load(write_folder(path, tensors, quantization)).weights


def assert_weights(weight, expected):
    assert np.array_equal(np.array(weight.dequantize(mx.float32)), expected)


def planar(codes, bits):
    planes, shift = [], 0
    for width in {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}[bits]:
        planes.append((codes >> shift & (1 << width) - 1, width))
        shift += width
    blocks = range(0, codes.shape[-1], 32)
    return np.concatenate([stream(plane[..., i : i + 32], width) for i in blocks for plane, width in planes], -1)


@pytest.mark.parametrize(("bits", "label"), [(3, "gptq_p"), (5, "gptq_p"), (6, "gptq_v2"), (7, "gptq")])
def test_gptqmodels_planar_codes(tmp_path, bits, label):
    codes, zeros, scales, expected = random(bits)
    settings = GPTQ | {"bits": bits, "checkpoint_format": label}
    parts = {"qweight": planar(codes.T, bits).T, "qzeros": planar(zeros, bits), "scales": scales}
    assert_weights(load(tmp_path, settings, **parts)[DOWN], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_marlins_order_is_undone(tmp_path, groups):
    codes, _, scales, _ = random()
    scales = scales[:groups]
    expected = (codes - 8).astype(np.float32) * np.repeat(scales, IN // groups, axis=0).astype(np.float32)
    order = []  # as the kernel's own script lists it
    for i in range(32):
        ones = [
            16 * row + i // 4 + 8 * block
            for block in (0, 1)
            for row in (2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1)
        ]
        order += [one + 256 * j for j in range(4) for one in ones]
    order = np.array(order).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
    tiles = codes.reshape(IN // 16, 16, OUT // 16, 16).transpose(0, 2, 1, 3).reshape(-1, 1024)[:, order]
    words = stream(tiles.reshape(IN // 16, -1), 4)
    places = [i + 8 * j for i in range(8) for j in range(8)]
    if groups == 1:
        places = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    permuted = scales.reshape(-1, len(places))[:, places].reshape(groups, OUT)
    settings = GPTQ | {"checkpoint_format": "marlin", "group_size": IN // groups}
    weights = load(tmp_path, settings, B=words, s=permuted, workspace=np.zeros(16, np.int32))
    assert list(weights) == [DOWN]
    assert_weights(weights[DOWN], expected)
    awq = AWQ | {"version": "marlin", "group_size": IN // groups}
    assert_weights(load(tmp_path, awq, qweight=words, scales=permuted)[DOWN], expected)
    with pytest.raises(mxd.FormatError, match="qzeros: found zero points in Marlin's layout"):
        load(tmp_path, awq, qweight=words, scales=permuted, qzeros=np.zeros((1, 8), np.int32))[DOWN]


@pytest.mark.parametrize("zeros", [None, np.zeros((2, 0), np.int32)])
def test_symmetric_codes_may_lack_zero_points(tmp_path, zeros):
    codes, _, scales, _ = random(3)
    parts = {"qweight": stream(codes.T, 3).T, "scales": scales} | ({} if zeros is None else {"qzeros": zeros})
    settings = GPTQ | {"sym": True, "bits": 3}
    expected = (codes - 4).astype(np.float32) * scales[GROUP].astype(np.float32)
    assert_weights(load(tmp_path, settings, **parts)[DOWN], expected)
    with pytest.raises(mxd.FormatError, match="qzeros"):
        load(tmp_path, settings | {"sym": False}, **parts)[DOWN]


def test_argsort_in_place_of_g_idx():
    codes, zeros, scales, _ = random()
    group = np.random.default_rng(0).permutation(GROUP)
    weight = mxd.GPTQWeight(stream(codes.T, 4).T.copy(), scales, stream(zeros, 4), np.argsort(group), SIZE, 4, "v2")
    assert_weights(weight, (codes - zeros[group]).astype(np.float32) * scales[group].astype(np.float32))
    with pytest.raises(mxd.FormatError, match="g_idx: found groups 0 to 127"):
        mxd.GPTQWeight(
            stream(codes.T, 4).T.copy(),
            scales,
            stream(zeros, 4),
            np.arange(IN) // 2 * 2 + 1 - (np.arange(IN) == 0),
            SIZE,
        )


@pytest.mark.parametrize("version", ["gemm", "exllama", "IPEX"])
def test_awqs_kernels_for_gemm(tmp_path, version):
    codes, zeros, scales, expected = random()
    mixed = [a.reshape(len(a), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].reshape(a.shape) for a in (codes, zeros)]
    parts = {"qweight": stream(mixed[0], 4), "qzeros": stream(mixed[1], 4), "scales": scales}
    assert_weights(load(tmp_path, AWQ | {"version": version}, **parts)[DOWN], expected)


def test_awqs_gemv_layout(tmp_path):
    codes, zeros, scales, expected = random()
    wide = np.zeros((OUT, 16), int), np.zeros((OUT, 16), np.float16)
    wide[0][:, :2], wide[1][:, :2] = zeros.T, scales.T
    parts = {"qweight": stream(codes.T, 4), "qzeros": stream(wide[0], 4), "scales": wide[1]}
    assert_weights(load(tmp_path, AWQ | {"version": "gemv"}, **parts)[DOWN], expected)


@pytest.mark.parametrize(("version", "name"), [("gemv_fast", "qzeros"), ("llm-awq", "scaled_zeros")])
def test_awqs_fast_gemv_layout(tmp_path, version, name):
    codes, zeros, scales, expected = random()
    words = np.zeros((OUT // 4, IN), np.uint16)
    for o in range(OUT):
        for i in range(IN):
            word, place = i // 32, i % 32
            mixed = place % 8 // 2 * 8 + place // 8 * 2 + place % 2  # of 4 x 4 pairs, rows and columns change places
            pair = mixed // 8 * 8 + mixed % 2 * 4 + mixed % 8 // 2  # even ones first
            column = word * 32 + pair
            at = column // 64 * 64 + o % 4 * 16 + column % 64 // 4
            words[o // 4, at] |= codes[i, o] << 4 * (column % 4)
    shifts = -(scales.astype(np.float32) * zeros).astype(np.float16)
    pad = np.zeros((6, OUT), np.float16)
    parts = {"qweight": words.view(np.int16), "scales": np.vstack([scales, pad]), name: np.vstack([shifts, pad])}
    assert_weights(load(tmp_path, AWQ | {"version": version}, **parts)[DOWN], expected)
    parts[name] = parts[name] * np.float16(1.01)
    with pytest.raises(mxd.FormatError, match=f"{name}: found values that are not -scale"):
        load(tmp_path, AWQ | {"version": version}, **parts)[DOWN]


def compressed(bits, **changes):
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": SIZE, "symmetric": False}
    group = {"targets": ["Linear"], "weights": weights | changes}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}


@pytest.mark.parametrize("pack", [stream, spaced])
@pytest.mark.parametrize("bits", range(1, 9))
def test_compressed_tensors_of_any_bits_in_both_packings(tmp_path, bits, pack):
    codes, zeros, scales, expected = random(bits)
    parts = {
        "weight_packed": pack(codes.T, bits),
        "weight_scale": scales.T,
        "weight_shape": np.array([OUT, IN]),
        "weight_zero_point": pack(zeros, bits).T,
    }
    weights = load(tmp_path, compressed(bits), **parts)
    assert_weights(weights[DOWN], expected.T)
    parts["weight_zero_point"] = (zeros.T - (1 << bits - 1)).astype(np.int8)
    assert_weights(load(tmp_path, compressed(bits), **parts)[DOWN], expected.T)


def test_few_inputs_of_both_packings(tmp_path):
    codes, scales = np.full((4, 20), 7), np.ones((4, 1), np.float16)
    codes[:, ::3] = 1
    for pack in (stream, spaced):
        assert pack(codes, 3).shape == (4, 2)
        parts = {"weight_packed": pack(codes, 3), "weight_scale": scales, "weight_shape": np.array([4, 20])}
        assert_weights(load(tmp_path, compressed(3, symmetric=True), **parts)[DOWN], codes - 4)


@pytest.mark.parametrize("shape", [(), (1,), (OUT, 1), (OUT, IN // SIZE), (1, 1)])
def test_int8_that_is_not_packed(tmp_path, shape):
    rng = np.random.default_rng(1)
    codes, scales = rng.integers(-128, 128, (OUT, IN)).astype(np.int8), rng.random(shape).astype(np.float32) + 0.5
    settings = compressed(8, symmetric=True) | {"format": "int-quantized"}
    weights = load(tmp_path, settings, weight=codes, weight_scale=np.asarray(scales, np.float32), input_scale=scales)
    assert list(weights) == [DOWN]
    wide = np.broadcast_to(np.atleast_2d(scales), (OUT, 2)) if shape != (OUT, 2) else scales
    assert_weights(weights[DOWN], codes.astype(np.float32) * np.repeat(wide, SIZE, axis=1))


def test_embeddings_have_a_class_of_their_own(tmp_path):
    codes, _, scales, _ = random()
    parts = {"weight_packed": stream(codes.T, 4), "weight_scale": scales.T, "weight_shape": np.array([OUT, IN])}
    settings = compressed(4, symmetric=True)
    settings["config_groups"]["group_0"]["weights"]["group_size"] = 32
    embeddings = compressed(4, symmetric=True)["config_groups"]["group_0"]
    settings["config_groups"]["group_1"] = embeddings | {"targets": ["Embedding"]}
    tensors = {f"model.embed_tokens.{part}": mx.array(np.ascontiguousarray(value)) for part, value in parts.items()}
    weight = mxd.load(write_folder(tmp_path, tensors, settings)).weights["model.embed_tokens"]
    assert_weights(weight, ((codes - 8).astype(np.float32) * scales[GROUP].astype(np.float32)).T)


def test_the_order_of_targets_is_the_producers(tmp_path):
    """Names before patterns, patterns by the alphabet, and of two equal targets the later one."""
    codes, _, scales, expected = random()
    parts = {"weight_packed": stream(codes.T, 4), "weight_scale": scales.T, "weight_shape": np.array([OUT, IN])}
    wrong, right = (compressed(bits, symmetric=True)["config_groups"]["group_0"] for bits in (8, 4))
    expected = ((codes - 8).astype(np.float32) * scales[GROUP].astype(np.float32)).T
    for first, then in (
        ("re:.*mlp.*", "re:.*down_proj$"),
        ("re:.*down_proj$", DOWN),
        (DOWN, DOWN),
        ("Linear", "re:.*"),
    ):
        groups = {"group_0": wrong | {"targets": [first]}, "group_1": right | {"targets": [then]}}
        settings = compressed(8) | {"config_groups": groups}
        assert_weights(load(tmp_path, settings, **parts)[DOWN], expected)


def test_a_weight_shape_of_many_empty_rows(tmp_path):
    """As a list it would take all memory."""
    codes, _, scales, _ = random()
    parts = {
        "weight_packed": stream(codes.T, 4),
        "weight_scale": scales.T,
        "weight_shape": np.zeros((1 << 20, 0), np.int64),
    }
    with pytest.raises(mxd.FormatError, match=r"weight_shape: found 0 numbers, expected \(out, in\)"):
        load(tmp_path, compressed(4, symmetric=True), **parts)[DOWN]
