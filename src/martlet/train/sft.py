"""Supervised fine-tuning: transformers' Trainer, with rows packed and the loss on replies alone."""

from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import CausalLMOutputWithPast

from martlet.train.base import TrainedModel
from martlet.train.batches import Batch, Rows, collate_for
from martlet.train.config import TrainConfig
from martlet.train.lessons import Lessons
from martlet.train.loss import token_losses
from martlet.train.progress import Reporter
from martlet.train.run_folder import RunFolder


class SupervisedTrainer(Trainer):
    """Counts real tokens, and weighs every validation token alike."""

    reporter: Reporter

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        self.reporter.num_tokens += _num_tokens(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The mean loss of a token over all rows, however they are batched."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in self.get_eval_dataloader(eval_dataset):
            inputs = self._prepare_inputs(batch)
            labels = inputs.pop("labels")
            with self.compute_loss_context_manager():
                losses = losses_of(model(**inputs), labels)
            totals += torch.tensor([losses.sum(), len(losses)], device=totals.device)
        total, count = self.accelerator.reduce(totals, reduction="sum").tolist()
        model.train()
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def make_trainer(
    trained: TrainedModel,
    config: TrainConfig,
    *,
    lessons: Lessons,
    folder: RunFolder,
    reporter: Reporter,
) -> SupervisedTrainer:
    """A trainer that is ready to run."""
    validation = lessons.validation.sequences
    callbacks: list[Any] = [reporter]
    if config.keep.patience is not None:
        callbacks.append(EarlyStoppingCallback(config.keep.patience))
    trainer = SupervisedTrainer(
        model=trained.module,
        args=training_arguments(config, trained, folder, has_validation=bool(validation)),
        train_dataset=Rows(lessons.training.sequences),
        eval_dataset=Rows(validation) if validation else None,
        data_collator=collate_for(trained.base),
        compute_loss_func=mean_loss,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.reporter = reporter
    return trainer


def training_arguments(
    config: TrainConfig, trained: TrainedModel, folder: RunFolder, *, has_validation: bool
) -> TrainingArguments:
    """The Trainer's own words for a config."""
    return TrainingArguments(**argument_values(config, trained, folder, has_validation))


def argument_values(
    config: TrainConfig, trained: TrainedModel, folder: RunFolder, has_validation: bool
) -> dict[str, Any]:
    """What every kind of trainer is told."""
    steps, keep = config.steps, config.keep
    evaluates = "no" if not has_validation else "steps" if keep.evaluate_every else "epoch"
    keeps_best = keep.patience is not None
    return {
        "output_dir": str(folder.checkpoints),
        "num_train_epochs": steps.epochs,
        "max_steps": steps.max_steps or -1,
        "per_device_train_batch_size": steps.batch_size,
        "per_device_eval_batch_size": steps.batch_size,
        "gradient_accumulation_steps": steps.accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": steps.schedule,
        "warmup_steps": steps.warmup,
        "weight_decay": steps.weight_decay,
        "max_grad_norm": steps.max_gradient_norm,
        "gradient_checkpointing": steps.checkpointing,
        "seed": steps.seed,
        "bf16": trained.computes_in == torch.bfloat16,
        "use_cpu": trained.base.device.type == "cpu",
        "eval_strategy": evaluates,
        "eval_steps": keep.evaluate_every,
        # The best weights are only known where a look and a checkpoint fall on the same step.
        "save_strategy": evaluates if keeps_best else "steps",
        "save_steps": keep.evaluate_every if keeps_best else keep.save_every,
        "save_total_limit": 2,
        "load_best_model_at_end": keeps_best,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": 1,
        "report_to": list(keep.report) or "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "optim": "adamw_torch",
    }


def mean_loss(
    outputs: CausalLMOutputWithPast, labels: Tensor, num_items_in_batch: Tensor | int | None
) -> Tensor:
    """The loss of a batch's tokens, summed, over the number of a step's tokens."""
    losses = losses_of(outputs, labels)
    return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)


def losses_of(outputs: CausalLMOutputWithPast, labels: Tensor) -> Tensor:
    """The loss of every token that is to be learned, `[N]`."""
    logits = outputs.logits
    if logits is None:
        raise TypeError("the model gave no logits")
    if labels.ndim == 1:  # packed: the model gave the rows that are asked for
        return token_losses(logits[0], labels[1:])
    is_target = labels[:, 1:] != -100
    return token_losses(logits[:, :-1][is_target], labels[:, 1:][is_target])


def _num_tokens(inputs: Batch) -> int:
    mask = inputs.get("attention_mask")
    return int(inputs["input_ids"].numel() if mask is None else mask.sum())
