"""Language models on mlx-lm whose weights stay quantized: `load`, then `mlx_lm.generate` as usual.

`install` makes mlx-lm's own `load`, server, chat and training open the same models.
"""

# ruff: noqa: E402  (what needs mlx-lm is imported after the check)
from .. import needs

needs.mlx_lm(__name__)

from .convert import convert
from .hook import install, installed, uninstall
from .load import load
from .shard import shard

__all__ = ["convert", "install", "installed", "load", "shard", "uninstall"]
