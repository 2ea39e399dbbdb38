"""Triton's kernels. `launch` has the backend's functions; `parameters` needs no triton.

Nothing is imported here, so that the parameters can be read where there is no triton.
"""
