"""Checkpoints: GGUF files and Hugging Face folders, read lazily and checked."""

from .checkpoint import Checkpoint, load
from .gguf_file import GGUFFile

__all__ = ["Checkpoint", "GGUFFile", "load"]
