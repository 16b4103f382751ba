"""`martlet.json`: where an adapter comes from, so that it is served as it was trained.

`martlet train` writes it beside the adapter's weights. Adapters that others trained have none, and
are taken as they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from martlet.errors import AdapterError

PROVENANCE_NAME = "martlet.json"
TEMPLATE_NAME = "chat_template.jinja"
"""The chat template that the adapter was trained with, in the same folder."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ServingIdentity:
    """What serves an adapter, as far as the adapter depends on it."""

    model: str
    """The base, as the user named it."""
    model_hash: str
    template_hash: str


@dataclass(frozen=True, kw_only=True)
class ParityProof:
    """What comparing the trainer with the serving engine on the same rows gave."""

    passed: bool
    num_rows: int
    num_tokens: int
    """Tokens that count for the loss."""
    trainer_loss: float
    """Mean negative log-likelihood of a token, in nats."""
    serving_loss: float
    tolerance: float
    """The largest difference of the two losses that passes."""
    reason: str = ""
    """Why it failed, with the first differing token."""
    whole_base_loss: float | None = None
    """With QLoRA: served un-merged on the base as it is stored, which training saw in 4 bits."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A reply that the adapter gave right after training."""

    prompt: str
    reply: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from."""

    base: str
    """As it was named in training; folders move."""
    base_hash: str
    template_hash: str
    tokenizer_hash: str
    stop_ids: Sequence[int]
    tuner: Literal["lora", "full"]
    method: Literal["sft", "dpo"]
    base_dtype: str
    """How the base's weights were held in training."""
    base_quantization: Literal["nf4"] | None
    """How they were quantised on loading, for QLoRA."""
    martlet: str
    """Version that trained it."""
    recipe: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """Each data file and its SHA-256."""
    proof: ParityProof | None = None
    generations: Sequence[Generation] = ()
    format: int = _FORMAT

    def write(self, folder: Path) -> None:
        """Writes the file, replacing an earlier one in one move."""
        path = folder / PROVENANCE_NAME
        draft = path.with_suffix(".json.draft")
        draft.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")
        draft.replace(path)

    def check(self, folder: Path, serving: ServingIdentity) -> None:
        """Refuses to serve the adapter on another base or with another chat template.

        Args:
            folder: The adapter's.

        Raises:
            AdapterError: If it was trained on or with another one, or failed its proof.
        """
        if self.base_hash != serving.model_hash:
            raise AdapterError(
                f"{folder} was trained on {self.base} (hash {self.base_hash[:16]}), and "
                f"{serving.model} has hash {serving.model_hash[:16]}: an adapter means something "
                "on its own base only; give that model, or train again on this one"
            )
        if self.template_hash != serving.template_hash:
            raise AdapterError(
                f"{folder} was trained with the chat template {self.template_hash or 'none'}, and "
                f"{serving.model} has {serving.template_hash or 'none'}: its prompts would look "
                f"unlike those of training; add --chat-template {folder / TEMPLATE_NAME}"
            )
        if self.proof is not None and not self.proof.passed:
            raise AdapterError(f"{folder} failed the proof of its training: {self.proof.reason}")


def difference_in_serving(folder: Path, provenance: Provenance) -> str | None:
    """How an adapter of QLoRA differs when it is served un-merged, in words; None for others."""
    proof = provenance.proof
    if proof is None or proof.whole_base_loss is None:
        return None
    return (
        f"{folder} was trained on its base in 4 bits, and is served on the base as it is stored: "
        f"loss {proof.whole_base_loss:.4f} where training ended with {proof.trainer_loss:.4f}; "
        f"martlet merge {folder} makes the very model of the training"
    )


def check_provenance(folder: Path, serving: ServingIdentity) -> Provenance | None:
    """Refuses to serve an adapter that says that it was trained for something else.

    Returns:
        Where it comes from; None if its folder does not say.

    Raises:
        AdapterError: As `Provenance.check` and `read_provenance` do.
    """
    provenance = read_provenance(folder)
    if provenance is not None:
        provenance.check(folder, serving)
    return provenance


def read_provenance(folder: Path) -> Provenance | None:
    """Reads where an adapter, or a model that was trained whole, comes from.

    Returns:
        None if the folder says nothing of it.

    Raises:
        AdapterError: If the file is broken, or a later Martlet wrote it.
    """
    path = folder / PROVENANCE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > _FORMAT:
            raise AdapterError(
                f"{path} was written by Martlet {content['martlet']}; update this one to read it"
            )
        proof = content.pop("proof")
        generations = content.pop("generations")
        known = {each.name for each in fields(Provenance)}
        return Provenance(
            **{name: value for name, value in content.items() if name in known},
            proof=None if proof is None else ParityProof(**proof),
            generations=tuple(Generation(**each) for each in generations),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AdapterError(
            f"{path} cannot be read: {error!r}; remove it to use the adapter unchecked"
        ) from error
