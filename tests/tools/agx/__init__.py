"""Counts what our Metal kernels are on an Apple GPU, on Linux: Mesa's open compiler makes AGX machine code of them.

Nothing runs and nothing is timed. The compiler is Mesa's, not Apple's: what it shows is how two programs compare,
ours and MLX's, or one before a change and after it. `python -m tests.tools.agx --help` says how to ask.

What is left out: `simdgroup_matrix` is unknown to the compiler, so the shim has a stand-in of two elements a lane, whose
product is two multiply-adds. Registers, loads and stores of `qmm` are counted, its matrix products are not.
"""
