"""How checkpoints lay out quantized modules: a file for each tool or kernel, converted into what kernels read.

Each function takes a module's tensors and settings. Integer codes are converted without rounding.
"""
