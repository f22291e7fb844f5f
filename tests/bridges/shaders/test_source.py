"""The texts that torch compiles: every Metal kernel behind a preamble and a signature of our own."""

import re

import pytest

torch = pytest.importorskip("torch", reason="the shaders run on torch's tensors")

from msl_check.check import check  # noqa: E402
from specs import every_spec  # noqa: E402

from mlx_dequant import formats, kernels  # noqa: E402
from mlx_dequant.bridges.shaders import source  # noqa: E402
from mlx_dequant.dtypes import FLOATS  # noqa: E402

FEW = ("dequantize", "gather_rows", "split_k_reduce", "permute_columns", "qmm", "gather_qmv")


def texts(name, dtypes, specs):
    """The texts of a format's kernels, without the preamble."""
    form = formats()[name]
    dtype, scales = dtypes
    for spec in specs:
        if not spec.needs_matrix:
            descriptions = [(None, spec, dtype)]
        else:
            given = "int32" if spec.inputs == ("ids",) else dtype if spec.inputs else ""
            looks_up = form.family in ("gptq", "compressed_tensors") and not spec.multiplies
            orders = (False, True) if looks_up else (False,)
            descriptions = [(form, spec, dtype, scales, g_idx, given) for g_idx in orders]
        for description in descriptions:
            _, text = source.function(*description)
            assert text.startswith(source.PREAMBLE)
            yield text.removeprefix(source.PREAMBLE)


def refused(text):
    return check(text, source.PREAMBLE)


def test_a_kernel_of_each_kind_is_metal():
    """Behind the preamble that torch gets, without MLX's."""
    kinds = {spec.name: spec for spec in sorted(every_spec("metal", formats()["ct4"]), key=repr)}
    for text in texts("ct4", ("float16", "bfloat16"), [kinds[name] for name in FEW]):
        assert refused(text) == []


@pytest.mark.full
@pytest.mark.parametrize(("at", "name"), list(enumerate(formats())))
def test_every_kernel_is_metal(at, name):
    pair = FLOATS[at % 3], FLOATS[at // 3 % 3]
    for text in texts(name, pair, every_spec("metal", formats()[name])):
        assert refused(text) == []


def test_a_signature_without_an_address_space_is_refused():
    (text,) = texts("q8_0", ("float16", ""), [kernels.DEQUANTIZE])
    assert refused(text) == []
    for parameter in ("const device uint* params", "device float16_t* out"):
        assert parameter in text
        assert refused(text.replace(parameter, parameter.replace("device ", ""))) != []


def test_the_signature_has_a_buffer_for_each_argument_in_order():
    _, text = source.function(formats()["gptq4"], kernels.qvm(1, 16, 4, 32), "float16", "bfloat16", False, "float16")
    signature = text[text.index("[[kernel]]") :]
    found = re.findall(r"device (\w+)\* (\w+) \[\[buffer\((\d+)\)\]\]", signature)
    expected = ["int qweight", "int qzeros", "bfloat16_t scales", "int g_idx", "float16_t x", "uint params"]
    assert [f"{kind} {name}" for kind, name, _ in found] == [*expected, "float16_t out"]
    assert [int(at) for *_, at in found] == list(range(7))
