"""`python -m mlx_dequant` is `mlx-dequant`."""

from .cli import main

raise SystemExit(main())
