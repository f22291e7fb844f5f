"""Checkpoints: GGUF files and Hugging Face folders, checked and read lazily."""

from .checkpoint import Checkpoint, load
from .gguf_file import GGUFFile

__all__ = ["Checkpoint", "GGUFFile", "load"]
