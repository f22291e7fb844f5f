"""Mistakes planted in the kernels of a pair a threadgroup: the checks of products with experts find each."""

import emulator
import mlx.core as mx
import numpy as np
import pytest
from cuda_programs import planted
from emulated_kernels import needs_compiler
from expert_cases import EXPERTS, check_experts, chosen, experts
from product_cases import SIZES

pytestmark = needs_compiler

# A text, another in its place, and whether it is of x @ W.T (True), of x @ W (False), or of both.
MUTATIONS = {
    "a row of x for each choice": ("row, pair", "pair, pair", None),
    "one result a row of x": ("row, pair", "row, row", None),
    "no ids from the end": ("id < 0 ? id + int(experts) : id", "id", None),
    "another pair's expert": ("ids[pair_of(threadgroup_index, p)]", "ids[0]", None),
    "the expert before": ("return expert < p.experts ? expert : 0;", "return expert < 1 ? expert : expert - 1;", None),
    "inputs that lie in their own order": (
        "v[k + j] = float(x[row + places[j]])",
        "v[k + j] = float(x[row + at + i + k + j])",
        False,
    ),
    "parts in the order of pairs": ("return threadgroup_index / p.M;", "return threadgroup_index % p.M;", None),
}
CASES = [
    (mutation, transpose)
    for mutation, (_, _, of) in MUTATIONS.items()
    for transpose in ((True, False) if of is None else (of,))
]
FAST = ("a row of x for each choice", True)


@pytest.mark.parametrize(
    ("mutation", "transpose"), [pytest.param(*case, marks=() if case == FAST else pytest.mark.full) for case in CASES]
)
def test_mutations(mutation, transpose):
    text, wrong, _ = MUTATIONS[mutation]
    name, ids = "q8_0" if transpose else "gptq4", chosen("from the end", 4, 2)
    with (
        planted(text, wrong),
        emulator.cuda(flags=("-O0",)),
        pytest.raises((AssertionError, emulator.EmulatorError), match=r"the largest error is|bound"),
    ):
        check_experts(name, mx.float32, ids, SIZES[1], gradient=False)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gptq4", "ct4"])
def test_results_in_the_order_of_sorted_inputs_are_seen(name):
    text = "struct results<permuted_outputs<F>>"
    with (
        planted(text, "struct results<permuted_inputs<permuted_outputs<F>>>"),
        emulator.cuda(flags=("-O0",)),
        pytest.raises(AssertionError, match=r"gradient .* the largest error is"),
    ):
        check_experts(name, mx.float32, chosen("any", 2, 1), SIZES[1])


@pytest.mark.full
@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("if (expert_of(ids, threadgroup_index, p) == p.experts) {", "if (false) {"),
        ("T(as_type<float>(0x7fc00000u))", "T(0.0f)"),
        ("return min(expert_number(", "return 0 * min(expert_number("),
    ],
    ids=["as the first expert", "zero", "any expert"],
)
def test_an_id_out_of_range_is_seen(text, wrong):
    packed, _ = experts("q8_0", SIZES[1])
    ids = mx.array([[1, EXPERTS]])
    x = mx.ones((1, packed.in_features))
    with emulator.cuda(flags=("-O0",)):
        right = np.array(packed.gather_linear(x, ids))
    assert np.isnan(right[0, 1]).all() and np.isfinite(right[0, 0]).all()
    with planted(text, wrong), emulator.cuda(flags=("-O0",)):
        found = np.array(packed.gather_linear(x, ids))
    assert np.isfinite(found[0, 1]).all()
