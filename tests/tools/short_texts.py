"""Kernel texts whose macros for words (mlx_dequant/kernel_names.py) are undone."""

import re

_MACRO = re.compile(r'^#define (\w\w?) (\w+|_Pragma\("unroll"\)|(\w+) __attribute__.*)\n', re.MULTILINE)


def without_macros(text: str) -> str:
    found = _MACRO.findall(text)
    words = {short: more or ("\n#pragma unroll\n" if "(" in word else word) for short, word, more in found}
    return re.sub(r"\w+", lambda word: words.get(word.group(), word.group()), _MACRO.sub("", text))
