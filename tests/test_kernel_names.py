"""Short names and macros in kernel texts: what the compiler sees is the long text."""

import re
from dataclasses import replace

import pytest
from short_texts import without_macros

import mlx_dequant as mxd
from mlx_dequant import kernel_source, kernels
from mlx_dequant.kernel_declarations import used
from mlx_dequant.kernel_names import shortened
from mlx_dequant.kernel_text import without_comments, without_spaces

LONG = """#include <cuda_fp16.h>
#define DOUBLE(value) (2 * value)
#define device
#define FLAT alignas(16) const
#define SIDE_1 4
#define SIDE(number) SIDE_##number
#define inline inline __attribute__((flatten))
namespace house{struct window{float height,width;};template<typename GLASS,uint PANES>inline float light(thread const
GLASS&pane,device uint*floor){const uint number=PANES;float total_light=simd_sum(pane.height);asm("height %0;");
#pragma unroll
for(uint i=0;i<PANES;++i)total_light+=light<GLASS,0>(pane,floor);
#pragma unroll 2
for(uint i=0;i<PANES;++i)total_light+=f(b,1.0f);return
DOUBLE(total_light)*number+blocks;}}
inline uint sum(uint a,uint b,uint c,uint d){return uint(a)+uint(b)+uint(c)+uint(d);}"""
ROOT = "house::window w;out=house::light<house::window,2>(w,(device uint*)params);"


def test_declared_names_become_short():
    text, root = shortened(without_spaces(LONG), ROOT, ["blocks", "params"])
    words = set(re.findall(r"\w+", re.sub(r'".*?"', "", text + root)))
    assert not words & {"window", "height", "GLASS", "PANES", "light", "pane", "number", "total_light"}
    assert {"simd_sum", "SIDE_", "SIDE_1", "DOUBLE", "alignas", "blocks", "thread", "typename", "out", "w"} <= words
    assert 'asm("height %0;")' in text
    name = re.search(r"namespace house\{struct (\w)\{", text)
    assert name and root.startswith(f"house::{name[1]} w;")


def test_frequent_words_become_macros():
    text, _ = shortened(without_spaces(LONG), ROOT, ["blocks", "params"])
    assert text.startswith("#include <cuda_fp16.h>\n#define ")
    macros = dict(re.findall(r"^#define (\w) (.+)$", text, re.MULTILINE))
    assert {"uint", '_Pragma("unroll")', "inline __attribute__((flatten))"} <= set(macros.values())
    assert not re.search(r"\binline\b", text.replace("inline __attribute__", ""))
    assert not macros.keys() & {"b", "f", "i", "w", "L", "R", "U", "u"}  # others' names, and what begins a string
    assert len(macros) == len(set(macros.values()))
    assert "#pragma unroll 2\n" in text and "#pragma unroll\n" not in text


def test_no_letters_mean_something_else():
    words = "".join(f"float some_name_{number};" for number in range(1600))
    text, _ = shortened(words + "\n", "", [])
    used = set(re.findall(r"\b\w\w?\b", text))
    assert len(used) == 1600 + 1  # and one for float
    assert not used & {"L", "R", "U", "u", "u8", "uR", "as", "do", "if", "in", "or", "cg", "cu"}


def test_macros_for_nothing_go_unless_asked_for():
    text, root = shortened(without_spaces(LONG), ROOT, ["blocks", "params"])
    assert not re.search(r"\bdevice\b", text + root)
    asked = "#define device\n#ifdef device\nint one;\n#endif\ndevice int two;"
    assert "#define device\n" in shortened(without_spaces(asked), "two", [])[0]


@pytest.mark.parametrize("platform", ["metal", "cuda"])
@pytest.mark.parametrize("name", ["q4_k", "iq1_m", "gptq3", "ct4"])
def test_a_short_text_is_the_long_one(name, platform, monkeypatch):
    """The macros undone, it is the text of what the kernel's code uses, but for names and macros for nothing."""
    spec = replace(kernels.qmv(1, 1, 4, 32), lut_in_shared=False)  # no #ifdef
    build = kernel_source.kernel_source.__wrapped__
    short = build(platform, mxd.formats()[name], spec, "float16", "float16")
    monkeypatch.setattr(kernel_source, "readable", lambda: True)
    whole = build(platform, mxd.formats()[name], spec, "float16", "float16")
    assert len(short.header) < 0.5 * len(whole.header)
    types = kernel_source._element_types(mxd.formats()[name], "float16")
    expected = without_spaces(used(without_comments(whole.header), f"{whole.body} {types}"))
    for empty in re.findall(r"^#define (\w+)\n", expected, re.MULTILINE):
        expected = re.sub(rf"\b{empty}\b", " ", expected.replace(f"#define {empty}\n", ""))
    expected, more = re.subn(r"^#define inline inline .*\n", "", expected, flags=re.MULTILINE)
    assert more == (platform == "metal") == ("inline __attribute__((always_inline))" in short.header)

    def shape(text):
        return re.sub(r"\s+", "", re.sub(r"\w+", "_", text))

    assert shape(without_macros(short.header)) == shape(without_comments(expected))
    new = set(re.findall(r"\w+", short.header)) - set(re.findall(r"\w+", whole.header)) - {"_Pragma"}
    assert new and all(len(word) <= 2 for word in new)
