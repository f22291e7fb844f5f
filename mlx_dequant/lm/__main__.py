"""`python -m mlx_dequant.lm COMMAND ...`: the command of mlx-lm, which opens packed models too."""

from __future__ import annotations

import sys

from ..errors import FormatError
from .commands import run

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m mlx_dequant.lm {generate,chat,server,lora,fuse,benchmark,perplexity,...} ...")
    try:
        run(sys.argv[1], sys.argv[2:])
    except (FormatError, FileNotFoundError, ConnectionError) as error:
        sys.exit(f"mlx-dequant: {error}")
