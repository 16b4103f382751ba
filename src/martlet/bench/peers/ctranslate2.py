"""CTranslate2 as a contestant, in static batches: each ends with its longest reply."""

from pathlib import Path
from typing import Any

from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, batches, contest

BATCH_SIZE = 64


def make(job: Job) -> Run:
    """Loads the converted model."""
    import ctranslate2

    generator = ctranslate2.Generator(job.converted, intra_threads=job.num_threads)
    words = _words(Path(job.converted))

    def run(work: Work, timeline: Timeline) -> None:
        for batch in batches(work, BATCH_SIZE):
            longest = max(ask.num_new_tokens for _, ask in batch)
            generator.generate_batch(
                [[words[i] for i in ask.prompt_ids] for _, ask in batch],
                max_length=longest,
                min_length=0 if work.stop_ids else longest,
                end_token=work.stop_ids or None,
                include_prompt_in_result=False,
                sampling_topk=0 if work.temperature else 1,
                sampling_temperature=work.temperature or 1.0,
                callback=_noting(batch, timeline),
            )

    return run


def convert(job: Job) -> None:
    """Writes what `ct2-transformers-converter` does."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(job.model).convert(job.converted, quantization=job.weights)


def _noting(batch: list[tuple[str, Ask]], timeline: Timeline) -> Any:
    """What is called with each token: notes those that were asked for, and stops nothing."""

    def note(step: Any) -> bool:
        name, ask = batch[step.batch_id]
        if step.step < ask.num_new_tokens:
            timeline.drawn(name)
        return False

    return note


def _words(folder: Path) -> list[str]:
    """The vocabulary, by id: prompts are given in words."""
    import json

    words: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    return words


def version() -> str:
    """As the package calls itself."""
    import ctranslate2

    return str(ctranslate2.__version__)


if __name__ == "__main__":
    contest(make, version, convert)
