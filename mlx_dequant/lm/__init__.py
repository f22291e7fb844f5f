"""Language models on mlx-lm whose weights stay quantized: `load`, then `mlx_lm.generate` as usual.

`install` makes mlx-lm's own `load`, server, chat and training open the same models.
"""

from importlib.util import find_spec

from ..needs import MissingError

if find_spec("mlx_lm") is None:
    raise MissingError("mlx_dequant.lm needs mlx-lm: pip install 'mlx-dequant[lm]'")

from .convert import convert
from .hook import install, installed, uninstall
from .load import load
from .shard import shard

__all__ = ["convert", "install", "installed", "load", "shard", "uninstall"]
