"""Requests in, responses and histories out: all at once, or as they grow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from martlet.backends.base import SampleRequest
from martlet.backends.seeds import given_seed, sample_seed
from martlet.compat.swift_llm.engine import GenerationConfig, LoRARequest, VllmEngine
from martlet.compat.swift_llm.template import Request, Template
from martlet.engine.params import SamplingParams
from martlet.errors import EngineError, ParameterError

Response = dict[str, Any]
"""A `response`, and the `history` that ends with it."""


def inference_vllm(
    llm_engine: VllmEngine,
    template: Template,
    request_list: Sequence[Request],
    *,
    generation_config: GenerationConfig | None = None,
    lora_request: LoRARequest | None = None,
    use_tqdm: bool = False,
) -> list[Response]:
    """Answers requests together.

    Args:
        generation_config: How replies are drawn; None takes the engine's.
        lora_request: The adapter that answers; None is the model itself.
        use_tqdm: Whether a terminal shows the progress.

    Returns:
        One response a request, in order.

    Raises:
        ParameterError: If a request or a setting is malformed; nothing was computed then.
        PromptTooLongError: If a request leaves no room for a reply.
        EngineError: If a step failed.
    """
    drawing = _Drawing.begin(llm_engine, template, request_list, generation_config, lora_request)
    with tqdm(
        total=len(request_list), unit="reply", disable=None if use_tqdm else True
    ) as progress:
        for num_finished in drawing.steps():
            progress.update(num_finished)
    return drawing.responses()


def inference_stream_vllm(
    llm_engine: VllmEngine,
    template: Template,
    request_list: Sequence[Request],
    *,
    generation_config: GenerationConfig | None = None,
    lora_request: LoRARequest | None = None,
) -> Iterator[list[Response]]:
    """Answers requests together, and shows how the replies grow.

    The arguments and errors are those of `inference_vllm`. Nothing is drawn before the first list
    is asked for; whoever stops asking gives the rest up.

    Yields:
        The responses so far, one a request, whenever one of them has grown. The last list holds
        the whole ones.
    """
    drawing = _Drawing.begin(llm_engine, template, request_list, generation_config, lora_request)
    for _ in drawing.steps():
        yield drawing.responses()


@dataclass(kw_only=True)
class _Drawing:
    """Replies that are being drawn."""

    engine: VllmEngine
    requests: Sequence[Request]
    samples: Sequence[SampleRequest]
    texts: list[str]

    @classmethod
    def begin(
        cls,
        engine: VllmEngine,
        template: Template,
        requests: Sequence[Request],
        config: GenerationConfig | None,
        adapter: LoRARequest | None,
    ) -> "_Drawing":
        params = (config or engine.generation_config).params()
        prompts = [template.prompt(request) for request in requests]
        rendered = [engine.backend.render(prompt) for prompt in prompts]
        name = engine.use(adapter)
        samples = [
            SampleRequest(
                request_id=f"swift-{engine.num_requests + place}",
                prompt_ids=shown.token_ids,
                params=params,
                seed=_seed(params, engine.num_requests + place),
                adapter=name,
                streams=True,
                prompt=prompt,
            )
            for place, (prompt, shown) in enumerate(zip(prompts, rendered, strict=True))
        ]
        engine.num_requests += len(samples)
        return cls(engine=engine, requests=requests, samples=samples, texts=["" for _ in samples])

    def steps(self) -> Iterator[int]:
        """Draws to the end.

        Yields:
            After each step in which a reply grew or ended, how many ended.

        Raises:
            ParameterError: If another stream of the engine is not at its end.
            EngineError: If a step failed.
        """
        backend = self.engine.backend
        if backend.num_unfinished:
            raise ParameterError("another stream of this engine is not at its end; close() it")
        id_to_place = {each.request_id: place for place, each in enumerate(self.samples)}
        try:
            for sample in self.samples:
                backend.submit(sample)
            while backend.num_unfinished:
                outputs = backend.poll()
                deltas = backend.take_deltas()
                for delta in deltas:
                    self.texts[id_to_place[delta.request_id]] += delta.text
                if failed := [each for each in outputs if each.finish_reason == "error"]:
                    raise EngineError(f"a reply could not be computed: {failed[0].error}")
                if outputs or any(delta.text for delta in deltas):
                    yield len(outputs)
        finally:
            for sample in self.samples:
                backend.abort(sample.request_id)
            backend.take_deltas()

    def responses(self) -> list[Response]:
        """What was said so far."""
        return [
            {"response": text, "history": [*_past(request), (request["query"], text)]}
            for request, text in zip(self.requests, self.texts, strict=True)
        ]


def _past(request: Request) -> list[tuple[str, str]]:
    return [(asked, answered) for asked, answered in request.get("history") or ()]


def _seed(params: SamplingParams, number: int) -> int:
    """Fixed draws, or those of the engine's request of that number."""
    return sample_seed("swift", number) if params.seed is None else given_seed(params.seed, 0)
