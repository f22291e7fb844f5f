"""`python -m bench` is `mlx-dequant bench`."""

import sys

from mlx_dequant.cli import main

raise SystemExit(main(["bench", *sys.argv[1:]]))
