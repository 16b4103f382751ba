"""Not vLLM: takes the command line of `vllm serve` and becomes Martlet's own server.

So starting, waiting, logging and stopping are tested with a real server where vLLM is not there.
"""

import argparse
import os
import sys

parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["serve"])
parser.add_argument("folder")
for name in ("--host", "--port", "--served-model-name", "--dtype", "--max-num-seqs"):
    parser.add_argument(name, required=True)
parser.add_argument("--generation-config", choices=["vllm"], required=True)
given = parser.parse_args()
print("not vLLM but Martlet's own server", flush=True)
command = [sys.executable, "-m", "martlet.cli.main", "serve", given.folder]
command += ["--port", given.port, "--served-model-name", given.served_model_name]
command += ["--dtype", "fp32", "--kv-memory", "0.05"]
os.execv(sys.executable, command)
