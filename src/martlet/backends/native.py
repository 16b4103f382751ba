"""The engine behind the backends' contract: words around it, token ids inside."""

from dataclasses import dataclass

from martlet.backends.base import (
    BackendLimits,
    DefaultParams,
    ModelIdentity,
    Prompt,
    RenderedPrompt,
    SampleDelta,
    SampleOutput,
    SampleRequest,
)
from martlet.backends.outputs import to_delta, to_output
from martlet.backends.render import render
from martlet.engine.config import EngineConfig
from martlet.engine.constraint import TokenConstraint
from martlet.engine.engine import Engine, StepOutput
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.stats import EngineStats
from martlet.lora.provenance import ServingIdentity
from martlet.lora.store import AdapterStore
from martlet.models.load import LoadedModel
from martlet.text.grammar import GrammarCompiler
from martlet.text.stream import StreamDecoder
from martlet.text.tokenizer import Tokenizer


@dataclass(kw_only=True, slots=True)
class _Reply:
    """A request of the engine and the text that it has become so far."""

    request: Request
    decoder: StreamDecoder
    streams: bool


class NativeBackend:
    """Draws samples with Martlet's own engine.

    Args:
        model: A model that passed the load-time guard.
        tokenizer: The model's tokenizer.
        config: Sizes of the engine.
        identity: What answers.
        default_params: What the model's folder recommends.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        identity: ModelIdentity,
        default_params: DefaultParams,
    ) -> None:
        self.identity = identity
        self.default_params = default_params
        self.limits = BackendLimits(
            max_context_tokens=config.max_context_tokens,
            max_num_requests=config.max_num_requests,
        )
        self.engine = Engine(model, config)
        self.adapters.serving = ServingIdentity(
            model=identity.model,
            model_hash=identity.model_hash,
            template_hash=identity.template_hash,
        )
        self._vocab_size = model.vocab_size
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer, vocab_size=model.vocab_size)
        self._replies: dict[str, _Reply] = {}
        self._deltas: list[SampleDelta] = []

    @property
    def stats(self) -> EngineStats:
        """What the engine has done since it was built."""
        return self.engine.stats

    @property
    def adapters(self) -> AdapterStore:
        """The adapters that requests may name; changed between two polls only."""
        return self.engine.adapters

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Backend.tokenizer`."""
        return self._tokenizer

    @property
    def num_unfinished(self) -> int:
        return self.engine.num_unfinished

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return render(prompt, self._tokenizer, vocab_size=self._vocab_size)

    def prepare(self, params: SamplingParams) -> None:
        """See `Backend.prepare`."""
        self._start_constraint(params)

    def submit(self, request: SampleRequest) -> None:
        """See `Backend.submit`."""
        params = request.params
        queued = self.engine.add(
            request.request_id,
            request.prompt_ids,
            params,
            seed=request.seed,
            stop_ids=self._tokenizer.stop_ids,
            constraint=self._start_constraint(params),
            adapter=request.adapter,
            num_candidates=request.num_candidates,
        )
        decoder = StreamDecoder(
            self._tokenizer,
            stop=params.stop,
            skip_special_tokens=params.skip_special_tokens,
            min_tokens=params.min_tokens,
        )
        self._replies[request.request_id] = _Reply(
            request=queued, decoder=decoder, streams=request.streams
        )

    def abort(self, request_id: str) -> None:
        """See `Backend.abort`."""
        self.engine.abort(request_id)
        self._replies.pop(request_id, None)

    def poll(self) -> list[SampleOutput]:
        """Runs one step of the engine and returns the samples that finished in it."""
        finished = [self._read(output) for output in self.engine.step()]
        return [output for output in finished if output is not None]

    def take_deltas(self) -> list[SampleDelta]:
        """See `Backend.take_deltas`."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def close(self) -> None:
        """Gives up what is unfinished and lets go of the model."""
        for request_id in list(self._replies):
            self.abort(request_id)
        del self.engine

    def _start_constraint(self, params: SamplingParams) -> TokenConstraint | None:
        if params.structured is None:
            return None
        return self._grammars.compile(params.structured).start()

    def _read(self, output: StepOutput) -> SampleOutput | None:
        """Adds drawn tokens to their reply's text; the sample, if that ended it."""
        request = output.request
        reply = self._replies[request.request_id]
        num_told = request.num_output_tokens - len(output.token_ids)
        text = self._push(output, reply.decoder)
        if request.is_finished:
            text += reply.decoder.flush()
        if reply.streams:
            num_tokens = request.num_output_tokens - num_told
            self._deltas.append(to_delta(request, text, num_tokens=num_tokens))
        if not request.is_finished:
            return None
        del self._replies[request.request_id]
        return to_output(request, reply.decoder)

    def _push(self, output: StepOutput, decoder: StreamDecoder) -> str:
        """The text that a step's tokens made certain; a stop string ends the request."""
        text = ""
        for number, token_id in enumerate(output.token_ids, start=1):
            if token_id in output.request.stop_ids:
                break
            text += decoder.push(token_id)
            if decoder.stop_string is not None:
                num_beyond = len(output.token_ids) - number
                self._stop(output.request, decoder.stop_string, num_beyond=num_beyond)
                break
        return text

    def _stop(self, request: Request, stop_string: str, *, num_beyond: int) -> None:
        """Ends a request at a stop string, which counts even if the step went on to another end."""
        self.engine.finish(request.request_id, "stop", stop_reason=stop_string)
        request.drop(num_beyond)
        request.finish_reason, request.stop_reason, request.error = "stop", stop_string, None
