"""Kernel texts without comments, indentation and needless spaces."""

import pytest

from mlx_dequant.kernel_text import without_comments, without_spaces


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
        ('asm("a %0, %1;" : : "r"(x), "r"(y) : "memory");', 'asm("a %0,%1;"::"r"(x),"r"(y):"memory");'),
        ("a = b ? c : ::d;", "a=b?c: ::d;"),
        (
            "namespace mlx_dequant {\n#define X(a) {a}\n}\nnamespace mlx_dequant { b; }",
            "namespace mlx_dequant{\n#define X(a) {a}\nb;}",
        ),
        ("namespace mlx_dequant { a b; }\n}\nnamespace mlx_dequant { c d; }", "namespace mlx_dequant{a b;}c d;}"),
    ],
)
def test_spaces_that_part_nothing_go(long, short):
    assert without_spaces(long) == short + "\n"
