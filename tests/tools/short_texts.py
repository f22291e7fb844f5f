"""Kernel texts whose macros for words (mlx_dequant/kernel_names.py) are undone."""

import re

_MACRO = re.compile(r'^#define (\w\w?) (\w+|_Pragma\("unroll"\))\n', re.MULTILINE)


def without_macros(text: str) -> str:
    words = {short: "\n#pragma unroll\n" if "(" in word else word for short, word in _MACRO.findall(text)}
    return re.sub(r"\w+", lambda word: words.get(word.group(), word.group()), _MACRO.sub("", text))
