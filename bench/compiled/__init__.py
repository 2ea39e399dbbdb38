"""Machine code and launches of the Triton kernels, without a GPU."""
