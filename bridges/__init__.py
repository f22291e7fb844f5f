"""Torch on this side, MLX on the other. Importing this package imports neither."""
