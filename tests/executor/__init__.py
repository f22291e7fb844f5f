"""Gate 1: the Metal sources, as MLX would compile them, executed on the CPU.

`metal()` makes the package's Metal backend run here, `kernel()` runs a kernel that a test wrote.
A grid's threads are fibers on one thread, in a chosen order; barriers and simdgroup functions are
where they meet.
"""

from .cuda_device import cuda
from .device import kernel, metal
from .launch import ORDERS, ExecutorError, Options, obstacle

__all__ = ["ORDERS", "ExecutorError", "Options", "cuda", "kernel", "metal", "obstacle"]
