"""The flags of `swift sft`, with ms-swift 2's defaults where they decide the result."""

from martlet.compat.flags import Flag, FlagTable, truth
from martlet.compat.swift.checkpoint import MODEL_FLAGS

TOO_LONG = {"delete": "skip", "truncation_left": "truncate-left"}
"""What becomes of longer rows, in `martlet train`'s words."""

_DATA = (
    Flag(name="dataset", explanation="Files of rows, or data sets of a hub.", many=True),
    Flag(
        name="train_dataset_sample",
        explanation="How many rows of the data set are taken; -1 takes all.",
        kind=int,
        default=-1,
    ),
    Flag(name="custom_train_dataset_path", explanation="More files of rows.", many=True),
    Flag(
        name="custom_val_dataset_path",
        explanation="A file of validation rows.",
        modern="--validation",
    ),
    Flag(
        name="dataset_test_ratio",
        explanation="Share of the rows that is kept for validation; 0.01 unless a file is given.",
        kind=float,
    ),
    Flag(
        name="max_length",
        explanation="Tokens of a row, at most.",
        kind=int,
        default=2048,
        modern="--max-length",
    ),
    Flag(
        name="truncation_strategy",
        explanation="What becomes of a longer row.",
        choices=tuple(TOO_LONG),
        default="delete",
    ),
    Flag(
        name="self_cognition_sample",
        explanation="So many rows that teach the model its name and author.",
        kind=int,
        default=0,
    ),
    Flag(name="model_name", explanation="The name, in Chinese and in English.", many=True),
    Flag(name="model_author", explanation="The author, in Chinese and in English.", many=True),
)
_TUNER = (
    Flag(
        name="sft_type",
        explanation="An adapter, or all weights.",
        choices=("lora", "full"),
        default="lora",
    ),
    Flag(
        name="lora_target_modules",
        explanation="Modules to adapt; ALL, like none, takes all linear layers.",
        many=True,
    ),
    Flag(
        name="lora_rank",
        explanation="Rank of the adapter.",
        kind=int,
        default=8,
        modern="--rank",
    ),
    Flag(
        name="lora_alpha",
        explanation="Scale of the adapter.",
        kind=float,
        default=32,
        modern="--alpha",
    ),
    Flag(
        name="lora_dropout_p",
        explanation="Share of the adapter's inputs that are dropped.",
        kind=float,
        default=0.05,
        modern="--dropout",
    ),
    Flag(
        name="quantization_bit",
        explanation="4 holds the base in 4 bits (QLoRA).",
        choices=("0", "4"),
        default="0",
    ),
)
_STEPS = (
    Flag(
        name="num_train_epochs",
        explanation="Passes over the rows.",
        kind=float,
        default=1,
        modern="--epochs",
    ),
    Flag(name="max_steps", explanation="Stop after so many.", kind=int, modern="--max-steps"),
    Flag(
        name="batch_size",
        explanation="Rows computed at once.",
        kind=int,
        default=1,
        modern="--batch-size",
    ),
    Flag(
        name="gradient_accumulation_steps",
        explanation="Batches a step.",
        kind=int,
        default=16,
        modern="--accumulation",
    ),
    Flag(
        name="learning_rate",
        explanation="The highest one; unless given, 1e-4, and 1e-5 for all weights.",
        kind=float,
    ),
    Flag(
        name="lr_scheduler_type",
        explanation="How it falls.",
        choices=("cosine", "linear", "constant"),
        default="linear",
        modern="--schedule",
    ),
    Flag(
        name="warmup_ratio",
        explanation="Share of the steps in which it rises.",
        kind=float,
        default=0.05,
        modern="--warmup",
    ),
    Flag(
        name="weight_decay",
        explanation="Pull of the weights towards zero.",
        kind=float,
        default=0.1,
        modern="--weight-decay",
    ),
    Flag(
        name="max_grad_norm",
        explanation="Longer gradients are shortened to this.",
        kind=float,
        default=0.5,
        modern="--max-gradient-norm",
    ),
    Flag(
        name="gradient_checkpointing",
        explanation="Compute activations again in the backward pass.",
        kind=truth,
        modern="--checkpointing",
    ),
    Flag(name="seed", explanation="Of weights and order.", kind=int, default=42, modern="--seed"),
)
_KEPT = (
    Flag(name="output_dir", explanation="Where runs go.", default="output"),
    Flag(
        name="eval_steps",
        explanation="Steps between two looks at the validation rows.",
        kind=int,
        default=50,
        modern="--evaluate-every",
    ),
    Flag(
        name="save_steps",
        explanation="Steps between two checkpoints.",
        kind=int,
        default=50,
        modern="--save-every",
    ),
    Flag(
        name="logging_steps",
        explanation="Steps between two lines of the log.",
        kind=int,
        moot="metrics.jsonl holds the loss of every step",
    ),
)
SFT = FlagTable(
    command="swift sft",
    purpose="Fine-tune a model on rows.",
    flags=(*MODEL_FLAGS[:2], *_DATA, *_TUNER, *_STEPS, *_KEPT),
)
