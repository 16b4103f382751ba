"""These tests run Triton's kernels: compiled on a CUDA device, interpreted elsewhere."""

import os
from importlib.util import find_spec

import torch

# Read when a kernel is defined, so before any module that has one is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

collect_ignore_glob = [] if find_spec("triton") else ["*"]
