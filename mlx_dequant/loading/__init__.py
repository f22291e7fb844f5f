"""Checkpoints: GGUF files and Hugging Face folders, read lazily and checked."""
