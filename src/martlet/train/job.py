"""A training run from its config to a proven adapter: the one place where the parts meet."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Trainer, set_seed

from martlet import __version__
from martlet.backends.load import open_model
from martlet.backends.options import BackendOptions
from martlet.errors import Interrupted, ParityError, ResourceError
from martlet.lora.provenance import TEMPLATE_NAME, ParityProof, Provenance
from martlet.models.folder import ModelFolder
from martlet.text.tokenizer import Tokenizer
from martlet.train.base import TrainedModel, load_for_training, save_weights
from martlet.train.config import TrainConfig, to_fields
from martlet.train.curve import draw_curve
from martlet.train.lessons import Lessons
from martlet.train.preferences import make_preference_trainer
from martlet.train.progress import Reporter, Watch
from martlet.train.proof import prove
from martlet.train.run_folder import RunFolder, open_run
from martlet.train.sft import make_trainer

MEMORY_ADVICE = (
    "--batch-size 1 with more --accumulation, --checkpointing, and a smaller --max-length each "
    "need less"
)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A run that may start: base, folder and rows were looked at and found good."""

    config: TrainConfig
    base: ModelFolder
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    """Precision of the products."""
    lessons: Lessons
    folder: RunFolder

    @property
    def resumes(self) -> bool:
        """Whether an earlier process left a checkpoint of this run."""
        return self.folder.last_checkpoint() is not None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    folder: Path
    num_steps: int
    num_trained_values: int
    loss: float | None
    """Of the last step; None if a finished run had nothing left to do."""
    validation_loss: float | None
    num_tokens: int
    """Computed by this process."""
    seconds: float
    proof: ParityProof


def open_job(config: TrainConfig) -> TrainJob:
    """Looks at everything that can be refused before anything is computed.

    Raises:
        NotFoundError, ModelError, TemplateError: If the base cannot be used.
        InputError: If a row cannot, or the folder holds something else.
    """
    opened = open_model(
        config.model,
        BackendOptions(
            dtype=config.steps.precision, chat_template=config.chat_template, backend="native"
        ),
    )
    lessons = Lessons.read(config, opened.tokenizer, opened.memory.max_context_tokens)
    inputs = {
        "base": opened.folder.model_hash,
        "template": opened.tokenizer.template_hash,
        **lessons.file_hashes,
    }
    return TrainJob(
        config=config,
        base=opened.folder,
        tokenizer=opened.tokenizer,
        device=opened.device,
        dtype=opened.dtype,
        lessons=lessons,
        folder=open_run(config, inputs=inputs),
    )


def run_job(
    job: TrainJob,
    *,
    watch: Watch = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Trains, writes the adapter or model, draws the curve and proves it.

    Args:
        watch: Called with each report of progress.
        should_stop: Asked after every step; the run can be taken up again later.

    Raises:
        Interrupted: If it was stopped; a checkpoint is kept.
        ResourceError: If memory does not suffice.
        ParityError: If what was trained is not what is served; the folder says so.
    """
    set_seed(job.config.steps.seed)
    trained = load_for_training(job.base, job.config, device=job.device, dtype=job.dtype)
    reporter = Reporter(watch, metrics=job.folder.metrics, should_stop=should_stop)
    trainer = _trainer(job, trained, reporter)
    checkpoint = job.folder.last_checkpoint()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"memory does not suffice to train: {MEMORY_ADVICE}") from error
    if reporter.was_stopped:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same command goes on from there"
        )
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return _result(job, trainer, trained, reporter, proof=_UNPROVEN)
    _write(job, trained)
    draw_curve(job.folder.metrics, job.folder.curve)
    proof = prove(job.config, job.lessons, trained, job.folder.path)
    provenance = proof.into(_provenance(job))
    provenance.write(job.folder.path)
    job.folder.drop_checkpoints()
    if not proof.parity.passed:
        raise ParityError(
            f"what was trained is not what is served: {proof.parity.reason}. {job.folder.path} "
            "is marked, and will not be served"
        )
    return _result(job, trainer, trained, reporter, proof=proof.parity)
