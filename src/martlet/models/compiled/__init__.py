"""Inner loops compiled while the process runs, for what PyTorch's own operations are slow at.

They need numba and a CPU that multiplies bf16 in pairs (AVX-512 BF16). Everything here
has a plain form in PyTorch, which is used otherwise and which tests compare it with.
"""
