"""The engine on an NVIDIA GPU: paged attention in Triton, and decoding in CUDA graphs."""
