"""Kernel texts that hold only what their kernel uses."""

import re

import pytest

import mlx_dequant as mxd
from mlx_dequant import kernel_source, kernels
from mlx_dequant.kernel_text import shortened, used, without_comments, without_spaces

TEXT = """
#define TABLE constant
#define UNUSED 1
#ifdef FAST
inline int quick(int x) { return x; }
#else
inline int quick(int x) { return x + 1; }
#endif
namespace here {
#define MAKE(type, name) \\
  inline type made(type x) { return name; }
MAKE(int, "one")
MAKE(uint, "two")
#undef MAKE
TABLE uint grid[2] = {1, 2};
TABLE uint other_grid[2] = {3, 4};
struct later;
struct point {
  enum { size = 2 };
  enum { weight = 3 };
  int x, y;
  template <typename T>
  static inline T sum(T a) { return a; }
  inline int product() { return quick(x) * y; }
};
template <typename F>
struct traits {
  typedef float type;
};
template <>
struct traits<point> {
  typedef int type;
};
struct rare {};
template <>
struct traits<rare> {
  typedef bool type;
};
template <uint N, typename V = uint>
inline uint read(V i) { if (i) { return grid[i]; } return 0; }
inline uint read_other(uint i) { return other_grid[i]; }
static_assert(point::size == 2, "the size; of {a point");
}
"""


def names(root):
    text = used(without_comments(TEXT), root)
    known = (
        "TABLE", "UNUSED", "quick", "grid", "other_grid", "point", "size", "weight", "sum", "product", "traits", "read"
    )  # fmt: skip
    return {name for name in known if re.search(rf"\b{name}\b", text)}


def test_what_is_used_stays():
    assert names("read<1>(0)") >= {"TABLE", "grid", "read"}
    assert not names("read<1>(0)") & {"UNUSED", "other_grid", "traits", "sum", "product", "weight", "quick"}
    assert names("point p; p.product()") >= {"point", "product", "quick"}
    assert not names("point p; p.product()") & {"sum", "weight", "traits", "grid"}
    assert names("traits<int>::type") >= {"traits"}


def test_a_specialisation_stays_with_its_type():
    text = used(without_comments(TEXT), "traits<point>::type")
    assert "typedef int type;" in text and "typedef bool type;" not in text
    assert "typedef bool type;" in used(without_comments(TEXT), "traits<rare>::type")


def test_fields_and_conditions_stay_whole():
    text = used(without_comments(TEXT), "point p; quick(1);")
    assert "int x, y;" in text
    macro = "#define MAKE(type, name) inline type made(type x) { return name; }"
    directives = [line for line in text.splitlines() if line.startswith("#")]
    assert directives == ["#ifdef FAST", "#else", "#endif", macro, "#undef MAKE"]
    assert 'MAKE(int, "one")\nMAKE(uint, "two")' in text


def test_comments_lines_and_indentation_go():
    text = '#line 3 "file"\nint a; // b\n\n  /* c\n d */ asm("// stays");\n'
    assert without_comments(text) == 'int a;\nasm("// stays");\n'


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("int a = b  +  c ;", "int a=b+c;"),
        ("a - -b; a & &b; a / *b; x > > y;", "a- -b;a& &b;a/ *b;x> >y;"),
        ("return x;\nelse\nreturn y;", "return x;else return y;"),
        ('int a ;\n#pragma unroll 2\nfor ( ; ; ) f("a ; b") ;', 'int a;\n#pragma unroll 2\nfor(;;)f("a ; b");'),
        ('static_assert(a(1) == b, "x; y"); int z;', "int z;"),
    ],
)
def test_spaces_that_part_nothing_go(long, short):
    assert without_spaces(long) == short + "\n"


LONG = """#define DOUBLE(value) (2 * value)
#define FLAT alignas(16) const
#define SIDE_1 4
#define SIDE(number) SIDE_##number
namespace house{struct window{float height,width;};template<typename GLASS,uint PANES>inline float light(thread const
GLASS&pane,uint floor){const uint number=PANES;float total_light=simd_sum(pane.height);asm("height %0;");return
DOUBLE(total_light)*number+blocks;}}"""


def test_declared_names_become_short():
    text, root = shortened(without_spaces(LONG), "house::window w;out=house::light<house::window,2>(w,1);", ["blocks"])
    declared = {"window", "height", "GLASS", "PANES", "light", "pane", "number", "total_light"}
    words = set(re.findall(r"\w+", re.sub(r'".*?"', "", text + root)))
    assert not words & declared
    assert {
        "simd_sum",
        "SIDE_",
        "SIDE_1",
        "DOUBLE",
        "alignas",
        "blocks",
        "thread",
        "typename",
        "float",
        "out",
        "w",
    } <= words
    assert 'asm("height %0;")' in text
    assert re.sub(r"\w+", "_", text) == re.sub(r"\w+", "_", without_spaces(LONG))
    name = re.search(r"namespace house\{struct (\w\w)\{", text)
    assert name and root.startswith(f"house::{name[1]} w;")


@pytest.mark.parametrize("platform", ["metal", "cuda"])
@pytest.mark.parametrize("name", ["q4_k", "iq1_m", "gptq3", "ct4"])
def test_a_short_text_has_what_the_whole_one_has(name, platform, monkeypatch):
    """What the kernel's code uses; nothing is written that the whole text lacks but names of two letters."""
    spec = kernels.qmv(1, 1, 4, 32)
    build = kernel_source.kernel_source.__wrapped__
    short = build(platform, mxd.formats()[name], spec, "float16", "float16")
    monkeypatch.setattr(kernel_source, "readable", lambda: True)
    whole = build(platform, mxd.formats()[name], spec, "float16", "float16")
    assert re.sub(r"\w+", "_", short.body) == re.sub(r"\w+", "_", whole.body)
    assert len(short.header) < 0.5 * len(whole.header)
    new = set(re.findall(r"\w+", short.header)) - set(re.findall(r"\w+", whole.header))
    assert new and all(len(word) == 2 for word in new)
    again = used(short.header, short.body)
    assert without_spaces(again) == short.header
