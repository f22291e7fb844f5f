"""The Metal sources: platforms, formats and kernels. `mlx_dequant.kernel_source` reads them as text."""
