"""Which model, and which adapter, a command means by its flags."""

from dataclasses import dataclass, replace
from pathlib import Path

from martlet.compat.flags import Flag, Given
from martlet.compat.model_types import published
from martlet.compat.swift.recorded import recorded_base
from martlet.errors import NotFoundError, ParameterError
from martlet.lora.config import CONFIG_NAME
from martlet.lora.provenance import TEMPLATE_NAME, read_provenance

DEFAULT_ADAPTER = "default-lora"
"""What requests call the adapter of `--ckpt_dir`."""
MERGED_SUFFIX = "-merged"
NESTED = "default"
"""Where ms-swift 2 puts an adapter inside a checkpoint, unless it writes PEFT's format."""


MODEL_FLAGS = (
    Flag(name="model_type", explanation="A published model's name, a folder or an id of a hub."),
    Flag(
        name="model_id_or_path",
        explanation="A folder or an id of a hub, in place of the one that --model_type stands for.",
    ),
    Flag(name="ckpt_dir", explanation="A folder that training or export wrote."),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model, perhaps with an adapter on it."""

    model: str
    """As Martlet's verbs take it."""
    name: str
    """What requests call the model."""
    adapter: Path | None = None
    """The folder of an un-merged adapter."""
    rule: Path | None = None
    """A chat template for a model that is published without one."""
    own_template: Path | None = None
    """The chat template that the adapter was trained with."""
    has_code: bool = False

    @property
    def merged(self) -> "Checkpoint":
        """The model that merging makes; its folder has the adapter's template."""
        assert self.adapter is not None
        folder = self.adapter.with_name(self.adapter.name + MERGED_SUFFIX)
        return replace(self, model=str(folder), adapter=None, own_template=None)

    def options(self) -> list[str]:
        """What every verb that runs the model must be told."""
        template = self.own_template or self.rule
        options = [] if template is None else ["--chat-template", str(template)]
        return [*options, "--trust-remote-code"] if self.has_code else options


def checkpoint_of(given: Given) -> Checkpoint:
    """What the flags name.

    Raises:
        ParameterError: If they name no model, or one that is not known.
        NotFoundError: If there is no such checkpoint, or its base is not known.
    """
    if given["ckpt_dir"] is None:
        return _base(given)
    folder = Path(given["ckpt_dir"]).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"no such checkpoint: {folder}")
    if (folder / NESTED / CONFIG_NAME).is_file():
        raise ParameterError(
            f"{folder} is not in PEFT's format; convert it with: export --ckpt_dir {folder} "
            "--to_peft_format true",
            param="ckpt_dir",
        )
    if (folder / CONFIG_NAME).is_file():
        return _adapted(given, folder)
    unmerged = folder.with_name(folder.name.removesuffix(MERGED_SUFFIX))
    if unmerged != folder and (unmerged / CONFIG_NAME).is_file():
        # Requests go on to use the name of the base.
        return replace(_base_of_adapter(given, unmerged), model=str(folder))
    return _base({"model_type": given["model_type"], "model_id_or_path": str(folder)})


def _base(given: Given) -> Checkpoint:
    model_type, path = given["model_type"], given["model_id_or_path"]
    if model_type is None and path is None:
        raise ParameterError("name a model: --model_type, --model_id_or_path or --ckpt_dir")
    known = None if model_type is None else published(model_type)
    model = path or (model_type if known is None else known.hub_id)
    return Checkpoint(
        model=model,
        name=_request_name(model_type or path),
        rule=None if known is None else known.rule,
        has_code=known is not None and known.has_code,
    )


def _adapted(given: Given, folder: Path) -> Checkpoint:
    template = folder / TEMPLATE_NAME
    is_own = read_provenance(folder) is not None and template.is_file()
    own_template = template if is_own else None
    return replace(_base_of_adapter(given, folder), adapter=folder, own_template=own_template)


def _base_of_adapter(given: Given, folder: Path) -> Checkpoint:
    is_told = given["model_type"] is not None or given["model_id_or_path"] is not None
    return _base(given if is_told else recorded_base(folder))


def _request_name(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model
