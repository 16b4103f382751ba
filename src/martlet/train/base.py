"""The base, loaded for training, and what of it is trained."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from martlet.errors import ModelError, ParameterError
from martlet.models.folder import ModelFolder
from martlet.models.nf4 import load_nf4
from martlet.models.pretrained import LOADING_ERRORS
from martlet.train.config import TrainConfig, TunerConfig


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model with some weights that move."""

    module: PreTrainedModel | PeftModel
    base: PreTrainedModel
    """The model without PEFT around it."""
    computes_in: torch.dtype
    """Precision of the products."""

    @property
    def peft_config(self) -> LoraConfig:
        """What the adapter is; only there if there is one."""
        assert isinstance(self.module, PeftModel)
        settings = self.module.peft_config["default"]
        assert isinstance(settings, LoraConfig)
        return settings

    @property
    def num_trained(self) -> int:
        """Values that move."""
        return sum(each.numel() for each in self.module.parameters() if each.requires_grad)


def load_for_training(
    folder: ModelFolder, config: TrainConfig, *, device: torch.device, dtype: torch.dtype
) -> TrainedModel:
    """Loads a base and puts the adapter's layers in.

    An adapter's base is held in the precision of the products, weights that are trained in fp32.

    Args:
        dtype: Precision of the products.

    Raises:
        ModelError: If transformers cannot load it.
        MissingExtraError: If it is to be held in 4 bits and bitsandbytes is not installed.
        ParameterError: If no module has a name that `targets` gives.
    """
    tuner = config.tuner
    base = _load(folder, dtype=torch.float32 if tuner.full else dtype, tuner=tuner, device=device)
    if tuner.full:
        base.requires_grad_(True)
        return TrainedModel(module=base, base=base, computes_in=dtype)
    base.requires_grad_(False)
    return TrainedModel(module=_adapted(base, config), base=base, computes_in=dtype)


def keep_start(trained: TrainedModel, config: TrainConfig, folder: Path) -> None:
    """Writes what PiSSA starts from, which its result is later expressed by (arXiv:2404.02948)."""
    if not config.tuner.pissa or (folder / _START).exists():
        return
    settings = trained.peft_config
    settings.init_lora_weights = True  # PEFT wants the start described as a plain adapter
    trained.module.save_pretrained(str(folder / _START))
    settings.init_lora_weights = "pissa"


def save_weights(trained: TrainedModel, config: TrainConfig, folder: Path, *, base: Path) -> None:
    """Writes the adapter as PEFT does, or the whole model as transformers does.

    PiSSA's adapter belongs to a base without its largest singular values; it is written as a
    difference to the base as it is, of twice the rank, which can be served like any other.

    Args:
        base: The base's folder, which the adapter names.
    """
    if config.tuner.full:
        trained.module.save_pretrained(str(folder))
        return
    trained.peft_config.base_model_name_or_path = str(base)
    if config.tuner.pissa:
        start = folder / _START
        trained.module.save_pretrained(
            str(folder), path_initial_model_for_weight_conversion=str(start)
        )
        shutil.rmtree(start)
    else:
        trained.module.save_pretrained(str(folder))


_START = "start"


def _load(
    folder: ModelFolder, *, dtype: torch.dtype, tuner: TunerConfig, device: torch.device
) -> PreTrainedModel:
    if tuner.qlora:
        return load_nf4(folder, dtype=dtype, device=device)
    disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype,
            local_files_only=True,
            device_map={"": device},
        )
    except LOADING_ERRORS as error:
        raise ModelError(f"{folder.path} cannot be loaded for training: {error}") from error
    return model


def _adapted(base: PreTrainedModel, config: TrainConfig) -> PeftModel:
    tuner = config.tuner
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuner.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=tuner.dropout,
        target_modules=list(tuner.targets) or "all-linear",
        use_dora=tuner.dora,
        use_rslora=tuner.rslora,
        init_lora_weights="pissa" if tuner.pissa else True,
    )
    try:
        adapted: PeftModel = get_peft_model(base, settings)
    except ValueError as error:
        raise ParameterError(
            f"targets={', '.join(tuner.targets)}: {error}; linear layers are: "
            f"{', '.join(sorted(_linear_names(base)))}",
            param="targets",
        ) from error
    return adapted


def _linear_names(model: nn.Module) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear)
    }
