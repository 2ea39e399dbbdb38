"""The backend of Triton kernels. `launch` has its functions; `parameters` needs no triton.

Nothing is imported here, so that `parameters` can be imported without triton.
"""
