"""Every Metal kernel that the package can launch passes the check of Metal's rules (tools/msl_check)."""

import re

import mlx.core as mx
import pytest
from msl_check.check import check, check_launch
from msl_check.launches import record, typed, weights
from short_texts import without_macros
from specs import every_spec

from mlx_dequant.registry import formats


@pytest.mark.parametrize(("name", "pairs"), typed(mx.float16))
def test_programs_are_metal(name, pairs):
    recorded = record("metal", formats()[name], pairs)
    assert recorded.specs == every_spec("metal", formats()[name])
    for text in recorded.texts():
        assert check(text) == []
    for one in recorded.launches:
        assert check_launch(one.grid, one.threadgroup) == []


@pytest.mark.parametrize("name", formats())
def test_some_inputs_are_small(name):
    # MLX passes arrays of fewer than 8 elements in another address space.
    sizes = [array.size for weight in weights(formats()[name]) for array in weight.arrays.values() if array is not None]
    assert min(sizes) == formats()[name].bytes if formats()[name].family == "gguf" else min(sizes) < 8


def test_text_is_what_mlx_prints():
    recorded = record("metal", formats()["q8_0"], ((mx.float16, mx.float16),))
    (launch,) = [one for one in recorded.launches if "custom_kernel_dequantize_" in one.function]
    assert launch.function.startswith("[[kernel]] void custom_kernel_dequantize_q8_0_float16")
    assert "const device uint8_t* blocks [[buffer(0)]]" in launch.function
    assert re.search(r"mlx_dequant::\w+<mlx_dequant::\w+, float16_t>\(", launch.function)
    assert "//" not in launch.header
    assert "#line" not in launch.header


@pytest.mark.full
def test_no_address_space_can_be_left_out():
    recorded = record("metal", formats()["iq2_xs"], ((mx.float16, mx.float16),))
    launch = next(one for one in recorded.launches if "mlx_dequant::qmv<" in one.function)
    code = without_macros(launch.header)
    words = list(re.finditer(r"\b(device|constant|threadgroup|thread) ", code))
    assert len(words) > 30
    for word in words:
        without = code[: word.start()] + code[word.end() :]
        line = code.count("\n", 0, word.start())
        assert check(without + launch.function) != [], code.splitlines()[line]
