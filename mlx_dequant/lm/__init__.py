"""Language models on mlx-lm, with weights that stay packed: `load`, then `mlx_lm.generate` as always."""

from importlib.util import find_spec

if find_spec("mlx_lm") is None:
    raise ImportError("mlx_dequant.lm needs mlx-lm: pip install 'mlx-dequant[lm]'")

from .load import load

__all__ = ["load"]
