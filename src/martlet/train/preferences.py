"""Learning from preferences: TRL's DPO trainer, on prompts and replies that we encoded."""

from collections.abc import Sequence
from typing import Any, cast

from datasets import Dataset
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from martlet.train.base import TrainedModel
from martlet.train.config import TrainConfig
from martlet.train.encoding import EncodedPreference
from martlet.train.lessons import Lessons
from martlet.train.progress import Reporter
from martlet.train.run_folder import RunFolder
from martlet.train.sft import argument_values


class PreferenceTrainer(DPOTrainer):
    """Takes rows as they were encoded, and counts real tokens.

    Direct preference optimisation: arXiv:2305.18290.
    """

    reporter: Reporter

    def _prepare_dataset(self, dataset: Any, *_: object, **__: object) -> Any:
        return dataset

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.reporter.num_tokens += int(inputs["attention_mask"].sum())
        return cast(Tensor, super().training_step(model, inputs, num_items_in_batch))  # type: ignore[no-untyped-call]


def make_preference_trainer(
    trained: TrainedModel,
    config: TrainConfig,
    *,
    tokenizer: Any,
    lessons: Lessons,
    folder: RunFolder,
    reporter: Reporter,
) -> PreferenceTrainer:
    """A trainer that is ready to run; the base itself, without the adapter, is its reference.

    Args:
        tokenizer: That of transformers: TRL asks it for the id of padding.
    """
    has_validation = bool(lessons.validation.pairs)
    values = argument_values(config, trained, folder, has_validation)
    callbacks: list[Any] = [reporter]
    if config.keep.patience is not None:
        callbacks.append(EarlyStoppingCallback(config.keep.patience))
    trainer = PreferenceTrainer(
        model=trained.module,
        args=DPOConfig(**values, beta=config.tuner.beta, max_length=None),
        train_dataset=_dataset(lessons.training.pairs),
        eval_dataset=_dataset(lessons.validation.pairs) if has_validation else None,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.reporter = reporter
    return trainer


def _dataset(pairs: Sequence[EncodedPreference]) -> Dataset:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_dict({name: [getattr(pair, name) for pair in pairs] for name in names})
