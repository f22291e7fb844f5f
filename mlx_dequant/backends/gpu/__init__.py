"""Metal and CUDA: the kernels under `metal/`, launched through `mx.fast`."""
