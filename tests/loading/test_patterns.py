"""Regular expressions of configs: what Python's matcher finds, in bounded time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_dequant as mxd
from mlx_dequant.loading.patterns import Pattern
from mlx_dequant.loading.schemes import scheme

NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.experts.37.down_proj",
    "lm_head",
    "",
    "a\nb\n",
    "Ünï_X",
)
COMMON = (
    *(r".*self_attn\.(q|k|v)_proj$", r"^model\.layers\.(0|1)\.", ".*", "(?!.*lm_head).*", "^(?!.*(mlp|attn)).*$"),
    *(
        r"\d+",
        r"[^.]+\.[a-z]+",
        "(?i)ÜNÏ|MODEL",
        r"\bself",
        "a{2,3}b?",
        r"\w+?\Z",
        "(?s).+$",
        "(?m)^b$",
        r"\S\s",
        r"[\W_]",
    ),
)


def same(pattern: str, name: str) -> None:
    ours, theirs = Pattern(pattern), re.compile(pattern)
    assert ours.match(name) == bool(theirs.match(name)), (pattern, name)
    assert ours.search(name) == bool(theirs.search(name)), (pattern, name)


@pytest.mark.parametrize("pattern", COMMON)
def test_common_patterns(pattern):
    for name in NAMES:
        same(pattern, name)


parts = st.sampled_from(
    [*"ab.(|)*+?^$", "[ab]", "[^a]", "(?:", "(?=", "(?!", "{1,2}", r"\b", r"\w", "*?", r"\B", "(?i:"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(parts, min_size=1, max_size=8).map("".join), st.text("abAc \n", max_size=6))
def test_any_pattern(pattern, name):
    try:
        re.compile(pattern)
    except re.error:
        with pytest.raises(mxd.FormatError):
            Pattern(pattern)
        return
    possessive = re.search(r"[*+?}]\+", pattern)  # of Python 3.11: refused
    if not possessive and (name or r"\B" not in pattern):  # Pythons differ in whether \B fits an empty text
        same(pattern, name)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)+$", "((a*)*)*b", "(.*)*x(.*)*y", ".*.*.*.*.*.*.*.*b", "(a|b|ab)*c"]
)
def test_patterns_that_take_years(pattern):
    start = time.process_time()
    assert Pattern(pattern).search("a" * 2000 + "!") is False
    assert time.process_time() - start < 2


def test_a_pattern_of_too_many_steps_is_refused():
    with pytest.raises(mxd.FormatError, match="expected a name that is matched in 100000 steps"):
        Pattern("(?=.*" * 6 + "c" + ")" * 6).search("a" * 500)


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?<=a)b", "(?<!a)b", "(?(1)a|b)", "(", "a{99999999999}", "[z-a]"])
def test_what_is_not_supported_is_refused(pattern):
    with pytest.raises(mxd.FormatError, match="expected a regular expression"):
        Pattern(pattern)


def test_a_config_names_its_pattern():
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"+:(": {}}}
    with pytest.raises(mxd.FormatError, match=r"dynamic: found '.', expected a regular expression"):
        scheme(config)
