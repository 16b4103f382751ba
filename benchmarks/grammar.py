"""What structured output costs: 64 requests that draw JSON of a schema, beside 64 that draw freely.

    python benchmarks/grammar.py TOKENIZER   # a folder with a tokenizer of about 150,000 tokens

The model is the random one of `martlet bench`, the shape of Qwen2 0.5B in bf16; the schema
is a long list of people, so nothing ends early; prompts of 16 tokens, 48 new ones, greedy. Free and
constrained runs take turns in one process. The last lines time the parts for one step by itself.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from common import prompts
from martlet.bench.random_model import VOCAB_SIZE, make_model
from martlet.engine.config import EngineConfig
from martlet.engine.constraint import fill_masks
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.sampler import draw
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.text.grammar import Grammar, GrammarCompiler
from martlet.text.structured import StructuredOutput
from martlet.text.tokenizer import Tokenizer

NUM_REQUESTS, NUM_PROMPT_TOKENS, NUM_NEW_TOKENS = 64, 16, 48
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "town": {"type": "string", "maxLength": 24},
        "side": {"enum": ["left", "right"]},
    },
    "required": ["name", "age", "town", "side"],
    "additionalProperties": False,
}
PEOPLE = StructuredOutput(json_schema={"type": "array", "items": PERSON, "minItems": 100})
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_NEW_TOKENS, ignore_eos=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    compiler = GrammarCompiler(Tokenizer.load(arguments.tokenizer), vocab_size=VOCAB_SIZE)
    start = time.perf_counter()
    grammar = compiler.compile(PEOPLE)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"first compilation, with the vocabulary: {time.perf_counter() - start:.2f} s")
    with tempfile.TemporaryDirectory() as scratch:
        opened = open_folder(make_model(Path(scratch) / "qwen2-0.5b-random"))
        model = load_model(opened, dtype=torch.bfloat16, device=torch.device("cpu"))
        measure_engine(model, grammar, arguments.rounds)
    measure_parts(grammar)


def measure_engine(model: LoadedModel, grammar: Grammar, num_rounds: int) -> None:
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(num_rounds):
        for is_constrained in rates:
            rate = tokens_per_second(model, grammar if is_constrained else None)
            rates[is_constrained].append(rate)
            print(f"{'constrained' if is_constrained else 'free':12} {rate:7.1f} tokens/s")
    free, constrained = (statistics.median(rates[kind]) for kind in (False, True))
    print(f"constrained / free: {constrained / free:.3f}")


def tokens_per_second(model: LoadedModel, grammar: Grammar | None) -> float:
    """Of the steps in which all requests draw."""
    longest = NUM_PROMPT_TOKENS + NUM_NEW_TOKENS
    config = EngineConfig(
        num_blocks=NUM_REQUESTS * -(-longest // 16),
        max_num_requests=NUM_REQUESTS,
        max_context_tokens=longest,
    )
    engine = Engine(model, config)
    for index, prompt in enumerate(prompts(NUM_REQUESTS, NUM_PROMPT_TOKENS)):
        constraint = None if grammar is None else grammar.start()
        engine.add(f"{index}", prompt, GREEDY, seed=index, constraint=constraint)
    while len(engine.step()) < NUM_REQUESTS:
        pass
    num_drawn = 0
    start = time.perf_counter()
    while engine.num_unfinished:
        num_drawn += len(engine.step())
    return num_drawn / (time.perf_counter() - start)


def measure_parts(grammar: Grammar) -> None:
    """Random logits lead the requests through junk strings, as a random model does."""
    requests = [
        Request(
            request_id=str(index),
            prompt_ids=(0,),
            params=GREEDY,
            seed=index,
            stop_ids=frozenset(),
            max_num_tokens=10**6,
            constraint=grammar.start(),
        )
        for index in range(NUM_REQUESTS)
    ]
    fills, draws = [], []
    for _ in range(NUM_NEW_TOKENS):
        logits = torch.randn(NUM_REQUESTS, VOCAB_SIZE).bfloat16()
        start = time.perf_counter()
        fill_masks(requests, VOCAB_SIZE)
        filled = time.perf_counter()
        token_ids = draw(logits, requests)
        fills.append(filled - start)
        draws.append(time.perf_counter() - filled)
        for request, token_id in zip(requests, token_ids, strict=True):
            assert token_id is not None
            request.append(token_id)
    print(f"masks of {NUM_REQUESTS} requests: {statistics.median(fills) * 1e3:.1f} ms a step")
    print(f"masks, masking and argmax: {statistics.median(draws) * 1e3:.1f} ms a step")


if __name__ == "__main__":
    main()
