"""Kernel texts that hold only what their kernel uses."""

import re

from mlx_dequant.kernel_declarations import used
from mlx_dequant.kernel_text import without_comments

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
inline int far(int rare) { return rare; }
inline int wide(int type) { return type; }
struct farther {};
inline int distance(farther a) { return 1; }
inline int distance(rare a) { return 0; }
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
    assert directives == ["#ifdef FAST", "#else", "#endif"]
    text = used(without_comments(TEXT), "made(1)")
    assert [line for line in text.splitlines() if line.startswith("#")] == [macro]
    assert 'MAKE(int, "one")\nMAKE(uint, "two")' in text


def test_an_overload_stays_with_its_types():
    assert "distance" not in used(without_comments(TEXT), "distance(1)")
    assert "int far(int rare)" in used(without_comments(TEXT), "far(1)")
    assert "int wide(int type)" in used(without_comments(TEXT), "wide(1)")
    text = used(without_comments(TEXT), "distance(rare())")
    assert "distance(rare a)" in text and "farther" not in text
