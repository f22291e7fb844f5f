"""What to install where a package is missing."""

from __future__ import annotations

from importlib.util import find_spec


class MissingError(ImportError):
    """A package that is not installed; the message says how to install it."""


def mlx() -> None:
    """Raises MissingError without MLX and a backend of it."""
    try:
        import mlx.core  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingError(
            "mlx-dequant needs MLX with a backend. On Linux: pip install 'mlx-dequant[cpu]', "
            "or [cuda12] or [cuda13] for an NVIDIA GPU."
        ) from error


def torch(who: str) -> None:
    """Raises MissingError without torch, for a module of this name."""
    if find_spec("torch") is None:
        raise MissingError(f"{who} needs torch: pip install 'mlx-dequant[torch]'")


def mlx_lm(who: str) -> None:
    """Raises MissingError without mlx-lm, for a module of this name."""
    if find_spec("mlx_lm") is None:
        raise MissingError(f"{who} needs mlx-lm: pip install 'mlx-dequant[lm]'")
