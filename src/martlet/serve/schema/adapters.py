"""The bodies of the requests that load, pin and drop adapters."""

from collections.abc import Mapping
from typing import ClassVar

from martlet.serve.schema.base import RequestModel


class LoadAdapter(RequestModel):
    """A PEFT folder, and the name that it will answer to."""

    name: str
    path: str
    """Below a folder of `--adapter-dir`; a relative path begins there."""
    is_pinned: bool = False


class PinAdapter(RequestModel):
    """Whether an adapter stays in memory when room is needed."""

    is_pinned: bool


class VllmLoadAdapter(RequestModel):
    """The same as vLLM's clients say it."""

    lora_name: str
    lora_path: str
    load_inplace: bool = True
    """A name that exists gets a new revision; false refuses it."""


class VllmUnloadAdapter(RequestModel):
    """The same as vLLM's clients say it."""

    REFUSED: ClassVar[Mapping[str, str]] = {"lora_int_id": "adapters have no numbers here"}

    lora_name: str
