"""Every Metal program that the package can launch passes the strict check (tests/strict)."""

import mlx.core as mx
import pytest
from strict.check import check, check_launch
from strict.launches import launches, weights

from mlx_dequant.programs import KERNELS
from mlx_dequant.registry import formats


@pytest.mark.parametrize("name", formats())
def test_programs_are_metal(name):
    found = launches("metal", formats()[name])
    assert {one.kernel for one in found} == {kernel.name for kernel in KERNELS}
    assert len(found) >= 3
    for text in {one.text for one in found}:
        assert check(text) == [], text.splitlines()[-1]
    for one in found:
        assert check_launch(one.grid, one.threadgroup) == []


@pytest.mark.parametrize("name", formats())
def test_small_weights_are_small(name):
    # The rule for inputs of fewer than 8 elements is in force only where a weight has such inputs.
    sizes = [array.size for weight in weights(formats()[name]) for array in weight.inputs.values() if array is not None]
    assert min(sizes) < 8 or formats()[name].bytes >= 8
    assert max(sizes) >= 8


def test_text_is_what_mlx_prints():
    (text,) = {one.text for one in launches("metal", formats()["q8_0"], (mx.float16,)) if one.kernel == "dequantize"}
    assert "[[kernel]] void custom_kernel_dequantize_q8_0_float16" in text
    assert "const device uint8_t* blocks [[buffer(0)]]" in text
    assert text.rstrip().endswith("}")
