"""What the Triton kernels compile to and launch, without a GPU."""
