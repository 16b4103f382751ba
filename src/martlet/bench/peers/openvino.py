"""OpenVINO GenAI as a contestant: its continuous batching, token ids in and out."""

from typing import Any

from martlet.bench.peers.protocol import Job, Run, Timeline, Work, contest

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}
_NUM_BITS = {"int8": 8, "int4": 4}
_MAX_NUM_REQUESTS = 256
_CACHE_GIB = 4


def make(job: Job) -> Run:
    """Loads the converted model."""
    import numpy as np
    import openvino
    import openvino_genai

    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = _CACHE_GIB
    scheduling.max_num_seqs = _MAX_NUM_REQUESTS
    scheduling.enable_prefix_caching = True
    precision = {"INFERENCE_PRECISION_HINT": _PRECISIONS[job.dtype]}
    engine = openvino_genai.ContinuousBatchingPipeline(job.converted, scheduling, "CPU", precision)

    def run(work: Work, timeline: Timeline) -> None:
        handles = []
        for index, ask in enumerate(work.asks):
            ids = openvino.Tensor(np.array([ask.prompt_ids], dtype=np.int64))
            config = _config(openvino_genai.GenerationConfig(), work, ask.num_new_tokens)
            handles.append(engine.add_request(index, ids, config))
        while engine.has_non_finished_requests():
            engine.step()
            for index, handle in enumerate(handles):
                if handle.can_read():
                    for sample, output in handle.read().items():
                        # Several samples of a prompt are told at their end.
                        note = timeline.drawn if work.num_samples == 1 else timeline.finished
                        note(f"{index}-{sample}", len(output.generated_ids))

    return run


def _config(config: Any, work: Work, num_new_tokens: int) -> Any:
    config.max_new_tokens = num_new_tokens
    config.ignore_eos = not work.stop_ids
    config.stop_token_ids = set(work.stop_ids)
    config.num_return_sequences = work.num_samples
    config.do_sample = work.temperature > 0
    if work.temperature > 0:
        config.temperature = work.temperature
    return config


def convert(job: Job) -> None:
    """Writes what `optimum-cli export openvino` does; without rounding, 16 bits."""
    import torch
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    num_bits = _NUM_BITS.get(job.weights)
    model = OVModelForCausalLM.from_pretrained(
        job.model,
        export=True,
        compile=False,
        load_in_8bit=False,
        dtype=getattr(torch, job.dtype),
        quantization_config=None if num_bits is None else OVWeightQuantizationConfig(bits=num_bits),
    )
    model.save_pretrained(job.converted)


def version() -> str:
    """As the package calls itself."""
    import openvino_genai

    return str(openvino_genai.__version__)


if __name__ == "__main__":
    contest(make, version, convert)
