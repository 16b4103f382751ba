"""llama.cpp as a contestant, where it has an environment: it draws transformers' own tokens."""

import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedModel

from martlet.bench.contestant import Contestant, find_contestants
from martlet.bench.peers.protocol import Ask, Job, Work
from martlet.bench.process import conversation
from martlet.errors import NotFoundError
from martlet.models.folder import open_folder
from support.engines import greedy_reply, load_reference
from support.tiny_models import VOCAB_SIZE, tiny_model_folder

ENVIRONMENTS = Path(os.environ.get("MARTLET_ENVIRONMENTS", "~/martlet-peers"))


@pytest.fixture(scope="module")
def llama_cpp() -> Contestant:
    try:
        return find_contestants([], ["llama.cpp"], environments=ENVIRONMENTS)[0]
    except NotFoundError as error:
        pytest.skip(str(error))


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A prompt, and transformers' reply to it."""

    ask: Ask
    reply: list[int]
    margin: float
    """By which each of its tokens is ahead of the next best, at least, in logits."""


@torch.inference_mode()
def exchange(model: PreTrainedModel, ask: Ask) -> Exchange:
    reply = greedy_reply(model, ask.prompt_ids, ask.num_new_tokens).token_ids
    logits = model(torch.tensor([ask.prompt_ids + reply])).logits[0, -len(reply) - 1 : -1]
    best, second = logits.topk(2).values.unbind(-1)
    return Exchange(ask=ask, reply=reply, margin=(best - second).min().item())


def exchanges(model: PreTrainedModel) -> list[Exchange]:
    """More prompt tokens than a batch holds, a common beginning, replies that end by and by; the
    clearest of several, since llama.cpp's attention has 16 bits."""
    random = Random(0)
    shared = random.choices(range(VOCAB_SIZE), k=50)
    lengths = [(380 - 10 * (index % 8), 6 + 3 * (index % 2)) for index in range(32)]
    candidates = [
        exchange(model, Ask(shared + random.choices(range(VOCAB_SIZE), k=own), num_new))
        for own, num_new in lengths
    ]
    return sorted(candidates, key=lambda each: each.margin)[-8:]


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_replies_end_where_those_of_transformers_do(
    llama_cpp: Contestant, architecture: str, tmp_path: Path
) -> None:
    folder = tiny_model_folder(architecture, tmp_path / "model")
    reference = load_reference(open_folder(folder))
    chosen = exchanges(reference)
    asks, replies = [each.ask for each in chosen], [each.reply for each in chosen]
    # The protocol tells numbers alone: tokens that end a reply make them tell which were drawn.
    stop_ids = [reply[-2] for reply in replies if len(reply) > 6]
    ends = [[at for at, token in enumerate(reply, 1) if token in stop_ids] for reply in replies]
    expected = sum(min(end, default=len(reply)) for end, reply in zip(ends, replies, strict=True))
    job = Job(
        model=str(folder),
        converted=str(tmp_path / "converted.gguf"),
        dtype="float32",
        weights="stored",
        num_threads=1,
        works=[
            Work("whole", "", asks),
            Work("ended", "", asks, stop_ids=stop_ids),
            Work("samples", "", asks, num_samples=40, temperature=0.7),
            Work("one", "", asks[:1]),
        ],
    )
    with conversation(llama_cpp, job, scratch=tmp_path) as peer:
        counts = [peer.measure(work)["num_tokens"] for work in range(len(job.works))]
    whole = sum(map(len, replies))
    assert counts == [whole, expected, 40 * whole, len(replies[0])]
    assert expected < whole
