"""Benchmarks. Each checks equality first, then measures. `mlx-dequant bench` runs what is in `run.py`."""
