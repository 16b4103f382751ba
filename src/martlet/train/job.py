"""A training run from its config to a proven adapter: the one place where the parts meet."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, Trainer, set_seed

from martlet import __version__
from martlet.backends.opened import open_model
from martlet.backends.options import BackendOptions
from martlet.errors import Interrupted, ParameterError, ParityError, ResourceError
from martlet.lora.provenance import TEMPLATE_NAME, ParityProof, Provenance
from martlet.models.companions import copy_companions
from martlet.models.folder import ModelFolder
from martlet.models.nf4 import require_bitsandbytes
from martlet.text.tokenizer import Tokenizer
from martlet.train.base import TrainedModel, keep_start, load_for_training, save_weights
from martlet.train.config import TrainConfig, to_fields
from martlet.train.curve import draw_curve
from martlet.train.disk import check_room, full_disk_named
from martlet.train.lessons import Lessons
from martlet.train.progress import Reporter, Watch
from martlet.train.proof import prove
from martlet.train.run_folder import RunFolder, check_free, open_run
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
    proof: ParityProof | None
    """None in the processes that leave it to the first."""


def open_job(config: TrainConfig, *, trial: Path | None = None) -> TrainJob:
    """Looks at everything that can be refused before anything is computed.

    Args:
        trial: A folder to run in that will be thrown away; that of the config is then only looked
            at.

    Raises:
        NotFoundError, ModelError, TemplateError: If the base cannot be used.
        InputError: If a row cannot, or the folder holds something else.
        MissingExtraError: If the base is to be held in 4 bits and bitsandbytes is not installed.
    """
    if config.tuner.qlora:
        require_bitsandbytes()
    _require_reporters(config)
    opened = open_model(
        config.model,
        BackendOptions(
            dtype=config.steps.precision, chat_template=config.chat_template, backend="native"
        ),
    )
    lessons = Lessons.read(
        config, opened.tokenizer, max_context_tokens=opened.memory.max_context_tokens
    )
    inputs = {
        "base": opened.folder.model_hash,
        "template": opened.tokenizer.template_hash,
        **lessons.file_hashes,
    }
    if trial is not None:
        check_free(config, inputs=inputs)
    return TrainJob(
        config=config,
        base=opened.folder,
        tokenizer=opened.tokenizer,
        device=opened.device,
        dtype=opened.dtype,
        lessons=lessons,
        folder=open_run(config, inputs=inputs) if trial is None else RunFolder(path=trial),
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
        ResourceError: If memory or disk space does not suffice.
        ParityError: If what was trained is not what is served; the folder says so.
    """
    reporter = Reporter(watch, metrics=job.folder.metrics, should_stop=should_stop)
    try:
        with full_disk_named(job.folder.path):
            trained, trainer = _train(job, reporter)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"memory does not suffice to train: {MEMORY_ADVICE}") from error
    if reporter.was_stopped:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the same command goes on from there"
        )
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return _result(job, trained, trainer, reporter, proof=None)
    with full_disk_named(job.folder.path):
        write_trained(job, trained)
        draw_curve(job.folder.metrics, job.folder.curve)
    proof = prove(job.config, job.lessons, trained, job.folder.path)
    proof.into(_provenance(job)).write(job.folder.path)
    job.folder.drop_checkpoints()
    if not proof.parity.passed:
        raise ParityError(
            f"what was trained is not what is served: {proof.parity.reason}. {job.folder.path} "
            "is marked, and will not be served"
        )
    return _result(job, trained, trainer, reporter, proof=proof.parity)


def _require_reporters(config: TrainConfig) -> None:
    for name in config.keep.report:
        if find_spec(name) is None:
            raise ParameterError(
                f"--report {name} needs a package that is not installed: pip install {name}",
                param="report",
            )


def _train(job: TrainJob, reporter: Reporter) -> tuple[TrainedModel, Trainer]:
    """Loads the base and takes all steps, or those that an earlier process left."""
    set_seed(job.config.steps.seed)
    # The only way to tell the Trainer; its own choice lies among the checkpoints, which go.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.folder.tensorboard)
    trained = load_for_training(job.base, job.config, device=job.device, dtype=job.dtype)
    check_room(job.folder.path, num_trained=trained.num_trained)
    keep_start(trained, job.config, job.folder.path)
    trainer = make_run(job, trained, reporter)
    checkpoint = job.folder.last_checkpoint()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trained, trainer


def make_run(job: TrainJob, trained: TrainedModel, reporter: Reporter) -> Trainer:
    """The trainer of a job, ready to run."""
    lessons, folder = job.lessons, job.folder
    if job.config.tuner.method == "sft":
        return make_trainer(trained, job.config, lessons=lessons, folder=folder, reporter=reporter)
    from martlet.train.preferences import make_preference_trainer  # TRL takes seconds to import

    return make_preference_trainer(
        trained,
        job.config,
        tokenizer=AutoTokenizer.from_pretrained(job.tokenizer.folder),
        lessons=lessons,
        folder=folder,
        reporter=reporter,
    )


def write_trained(job: TrainJob, trained: TrainedModel) -> None:
    """Writes the weights, and what serving needs beside them."""
    folder = job.folder.path
    save_weights(trained, job.config, folder, base=job.base.path)
    if job.tokenizer.template is not None:
        (folder / TEMPLATE_NAME).write_text(job.tokenizer.template, encoding="utf-8")
    if job.config.tuner.full:
        copy_companions(job.base.path, folder)


def _provenance(job: TrainJob) -> Provenance:
    config = job.config
    return Provenance(
        base=config.model,
        base_hash=job.base.model_hash,
        template_hash=job.tokenizer.template_hash,
        tokenizer_hash=job.tokenizer.tokenizer_hash,
        stop_ids=job.tokenizer.stop_ids,
        tuner="full" if config.tuner.full else "lora",
        method=config.tuner.method,
        base_dtype=str(job.dtype).removeprefix("torch."),
        base_quantization="nf4" if config.tuner.qlora else None,
        martlet=__version__,
        recipe=to_fields(config),
        data=job.lessons.file_hashes,
    )


def _result(
    job: TrainJob,
    trained: TrainedModel,
    trainer: Trainer,
    reporter: Reporter,
    *,
    proof: ParityProof | None,
) -> TrainResult:
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation_losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return TrainResult(
        folder=job.folder.path,
        num_steps=trainer.state.global_step,
        num_trained_values=trained.num_trained,
        loss=losses[-1] if losses else None,
        validation_loss=validation_losses[-1] if validation_losses else None,
        num_tokens=reporter.num_tokens,
        seconds=reporter.seconds,
        proof=proof,
    )
