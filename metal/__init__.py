"""The Metal sources: preludes, formats and kernels, read as text by `mlx_dequant.programs`."""
