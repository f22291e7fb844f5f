"""Gate 1: the Metal sources, as MLX would compile them for Metal or CUDA, executed on the CPU.

`metal()` and `cuda()` make the package's backends run here, `kernel()` runs a Metal kernel that a test wrote.
A grid's threads are fibers on one thread, in a chosen order; barriers and simdgroup functions are
where they meet.
"""

from .cuda_device import cuda
from .device import kernel, metal
from .launch import ORDERS, EmulatorError, Options, obstacle

__all__ = ["ORDERS", "EmulatorError", "Options", "cuda", "kernel", "metal", "obstacle"]
