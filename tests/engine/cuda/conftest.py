"""These tests run Triton's kernels: compiled on a CUDA device, interpreted elsewhere."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["*"]
