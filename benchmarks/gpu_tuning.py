"""LoRA and QLoRA on one GPU: `martlet train` beside TRL's SFTTrainer, the same rows and recipe.

Part of `benchmarks/gpu.py`, which runs each contender in a process of its own. Rows are random ids,
between 128 and 1,024 of them in no order, the last quarter of each to be learned; 8 rows a step,
rank 16 on all linear layers, no gradient checkpointing. TRL pads a step's rows to the longest, as
it does unless told otherwise. Tokens are those of the rows, padding left out. The first steps,
which warm up, are not timed.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from martlet.models.folder import open_folder

RANK = 16
LEARNING_RATE = 2e-4


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much is learned."""

    num_steps: int = 12
    num_warm_up: int = 2
    batch_size: int = 8
    lengths: tuple[int, int] = (128, 1024)
    """Of the shortest row and of the longest."""
    vocab_size: int = 128_000

    def rows(self) -> list[list[int]]:
        """Token ids, in the order of the steps."""
        generator = torch.Generator().manual_seed(0)
        shortest, longest = self.lengths
        num_rows = self.num_steps * self.batch_size
        lengths = torch.randint(shortest, longest + 1, (num_rows,), generator=generator)
        return [
            torch.randint(3, self.vocab_size, (length,), generator=generator).tolist()
            for length in lengths.tolist()
        ]


def num_prompt(row: list[int]) -> int:
    """How many of a row's tokens are context alone."""
    return len(row) * 3 // 4


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a contender took for its steps after the first ones."""

    tokens_per_second: float
    peak_gib: float
    """Of the GPU's memory, over the whole run; 0 on a CPU."""
    losses: tuple[float, ...]
    """Of each step."""


class Clock(transformers.TrainerCallback):
    """Times the steps after the warm-up, and counts their tokens."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe = recipe
        self._device = device
        self._num_tokens = 0
        self._started = self._ended = 0.0
        self._losses: list[float] = []

    def count(self, num_tokens: int) -> None:
        """To be told the tokens of each batch before it is computed."""
        self._num_tokens += num_tokens

    def on_step_end(self, _args: object, state: object, _control: object, **_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._ended = time.perf_counter()
        if state.global_step == self._recipe.num_warm_up:
            self._started, self._num_tokens = self._ended, 0

    def on_log(
        self, _args: object, _state: object, _control: object, logs: dict[str, float], **_: object
    ) -> None:
        if "loss" in logs:
            self._losses.append(float(logs["loss"]))

    def tuned(self) -> Tuned:
        is_cuda = self._device.type == "cuda"
        peak_bytes = torch.cuda.max_memory_allocated(self._device) if is_cuda else 0
        return Tuned(
            tokens_per_second=self._num_tokens / (self._ended - self._started),
            peak_gib=peak_bytes / 2**30,
            losses=tuple(self._losses),
        )


def tune_with_martlet(
    folder: Path, recipe: Recipe, device: torch.device, *, qlora: bool = False
) -> Tuned:
    """The trainer that `martlet train` runs, on rows that are ids already."""
    from martlet.train.base import load_for_training
    from martlet.train.config import resolve_config
    from martlet.train.encoding import EncodedExample
    from martlet.train.example import Origin
    from martlet.train.lessons import Lessons, Split
    from martlet.train.progress import Reporter
    from martlet.train.run_folder import RunFolder
    from martlet.train.sft import make_trainer

    clock = Clock(recipe, device)
    sequences = tuple(
        EncodedExample(
            origin=Origin(path="random", row=number),
            token_ids=tuple(row),
            is_target=tuple(index >= num_prompt(row) for index in range(len(row))),
        )
        for number, row in enumerate(recipe.rows(), 1)
    )
    with tempfile.TemporaryDirectory() as place:
        config = resolve_config(
            {
                "data": ["random"],
                "model": str(folder),
                "out": Path(place),
                "rank": RANK,
                "qlora": qlora,
                "batch_size": recipe.batch_size,
                "max_steps": recipe.num_steps,
                "learning_rate": LEARNING_RATE,
                "warmup": 0,
            }
        )
        trained = load_for_training(
            open_folder(folder), config, device=device, dtype=torch.bfloat16
        )
        run_folder = RunFolder(path=Path(place))
        lessons = Lessons(
            training=Split(sequences=sequences),
            validation=Split(),
            training_sources=(),
            validation_sources=(),
            max_length=recipe.lengths[1],
        )
        trainer = make_trainer(
            trained,
            config,
            lessons=lessons,
            folder=run_folder,
            reporter=Reporter(
                lambda _: None, metrics=run_folder.metrics, should_stop=lambda: False
            ),
        )
        _train(trainer, clock, lambda inputs: inputs["input_ids"].numel())
    return clock.tuned()


def tune_with_trl(
    folder: Path, recipe: Recipe, device: torch.device, *, qlora: bool = False
) -> Tuned:
    """The trainer as TRL's documentation shows it."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    clock = Clock(recipe, device)
    rows = recipe.rows()
    masks = [[int(index >= num_prompt(row)) for index in range(len(row))] for row in rows]
    with tempfile.TemporaryDirectory() as place:
        trainer = SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.bfloat16,
                device_map={"": device},
                quantization_config=_nf4() if qlora else None,
            ),
            args=SFTConfig(
                output_dir=place,
                per_device_train_batch_size=recipe.batch_size,
                max_steps=recipe.num_steps,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="cosine",
                seed=0,
                bf16=True,
                use_cpu=device.type == "cpu",
                gradient_checkpointing=False,
                max_length=None,
                completion_only_loss=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"input_ids": rows, "completion_mask": masks}),
            processing_class=_words(recipe.vocab_size),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
            ),
        )
        _train(trainer, clock, lambda inputs: inputs["attention_mask"].sum())
    return clock.tuned()


def _train(
    trainer: transformers.Trainer, clock: Clock, num_tokens: Callable[[dict], int | torch.Tensor]
) -> None:
    step = trainer.training_step

    def counted(module: object, inputs: dict, count: object) -> object:
        clock.count(int(num_tokens(inputs)))
        return step(module, inputs, count)

    trainer.training_step = counted
    trainer.add_callback(clock)
    trainer.train()


def _nf4() -> transformers.BitsAndBytesConfig:
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _words(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer, which TRL wants to be there; nothing is left for it to read."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {f"w{number}": number for number in range(vocab_size)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="w0", eos_token="w1"
    )
