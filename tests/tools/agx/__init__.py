"""Counts what our Metal kernels are on an Apple GPU, on Linux: Mesa's open compiler makes AGX machine code of them.

Nothing runs and nothing is timed. The compiler is Mesa's, not Apple's: what it shows is how two programs compare,
ours and MLX's, or one before a change and after it. `python -m tests.tools.agx --help` says how to ask.

What is left out: the compiler does not know `simdgroup_matrix`, so the shim has a stand-in of two elements a lane, with
two multiply-adds for a product. It counts the registers, loads and stores of `qmm`, and not its matrix products. A loop
in the loop over K is counted once: `qmm` decodes half a lane's weights in one where they have no scale in common. Nor
does the compiler know bfloat16, which the shim computes in integers: `--dtype bfloat16` asks for it, and the committed
table has float16 alone.
"""
