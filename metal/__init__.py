"""The Metal sources: platforms, formats and kernels, read as text by `mlx_dequant.programs`."""
