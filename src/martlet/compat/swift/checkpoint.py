"""Which model, and which adapter, a command means by its flags."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from martlet.compat.flags import Flag, Given
from martlet.compat.model_types import PUBLISHED, published
from martlet.errors import NotFoundError, ParameterError
from martlet.lora.config import CONFIG_NAME
from martlet.lora.provenance import TEMPLATE_NAME, read_provenance

DEFAULT_ADAPTER = "default-lora"
"""What requests call the adapter of `--ckpt_dir`."""
MERGED_SUFFIX = "-merged"
NESTED = "default"
"""Where the tool puts an adapter inside a checkpoint, unless it writes PEFT's format."""

_ARGUMENTS = "sft_args.json"

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
    adapter: Path | None
    """The folder of an un-merged adapter."""
    name: str
    """What requests call the model."""
    template: Path | None = None
    """In place of the model's own."""
    has_code: bool = False

    @property
    def merged(self) -> Path:
        """Where the merged model goes."""
        assert self.adapter is not None
        return self.adapter.with_name(self.adapter.name + MERGED_SUFFIX)

    def options(self) -> list[str]:
        """What every verb that runs the model must be told."""
        options = [] if self.template is None else ["--chat-template", str(self.template)]
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
        return replace(_adapted(given, unmerged), model=str(folder), adapter=None, template=None)
    named = None if given["model_type"] is None else published(given["model_type"])
    return Checkpoint(
        model=str(folder),
        adapter=None,
        name=given["model_type"] or folder.name,
        has_code=named is not None and named.has_code,
    )


def _base(given: Given) -> Checkpoint:
    model_type, path = given["model_type"], given["model_id_or_path"]
    if model_type is None and path is None:
        raise ParameterError("name a model: --model_type, --model_id_or_path or --ckpt_dir")
    named = None if model_type is None else published(model_type)
    model = path or (model_type if named is None else named.hub_id)
    return Checkpoint(
        model=model,
        adapter=None,
        name=_request_name(model_type or path),
        template=None if named is None else named.rule,
        has_code=named is not None and named.has_code,
    )


def _adapted(given: Given, folder: Path) -> Checkpoint:
    is_told = given["model_type"] is not None or given["model_id_or_path"] is not None
    base = _base(given if is_told else _recorded_base(folder))
    template = folder / TEMPLATE_NAME
    # An adapter is served with the template that it was trained with.
    is_own = read_provenance(folder) is not None and template.is_file()
    return replace(base, adapter=folder, template=template if is_own else base.template)


def _recorded_base(folder: Path) -> Given:
    """The base as training wrote it down, in the flags that would name it."""
    provenance = read_provenance(folder)
    if provenance is not None:
        return {"model_type": None, "model_id_or_path": provenance.base}
    for path in (folder / _ARGUMENTS, folder.parent / _ARGUMENTS):
        if path.is_file():
            arguments = json.loads(path.read_text(encoding="utf-8"))
            model_type, model = arguments.get("model_type"), arguments.get("model_id_or_path")
            # The ids that the tool records are ModelScope's.
            is_folder = model is not None and Path(model).is_dir()
            if model_type in PUBLISHED or model is not None:
                return {
                    "model_type": model_type if model_type in PUBLISHED else None,
                    "model_id_or_path": model if is_folder or model_type not in PUBLISHED else None,
                }
    named = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if base := named.get("base_model_name_or_path"):
        return {"model_type": None, "model_id_or_path": base}
    raise NotFoundError(f"{folder} does not name the model that it is for; add --model_type")


def _request_name(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model
