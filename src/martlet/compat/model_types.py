"""Models by the names that ms-swift 2 gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Final

from martlet.errors import ParameterError

RULES = Path(__file__).parent / "rules"
"""Chat templates of models whose folders have none."""
RAW: Final = "default-generation"
"""The template type of models that continue text."""
OWN: Final = "own"
"""The template type of models that are not named here: the folder's own template."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Where a model is published, and what its folder lacks."""

    hub_id: str
    """On Hugging Face."""
    template_type: str
    rule: Path | None = None
    """A chat template, where the folder has none."""
    has_code: bool = False
    """Whether the folder's own Python code must run."""


_QWEN: Final = RULES / "qwen.jinja"
PUBLISHED: Mapping[str, PublishedModel] = MappingProxyType(
    {
        "qwen-7b": PublishedModel(hub_id="Qwen/Qwen-7B", template_type=RAW, has_code=True),
        "qwen-7b-chat": PublishedModel(
            hub_id="Qwen/Qwen-7B-Chat", template_type="qwen", rule=_QWEN, has_code=True
        ),
        "qwen1half-7b-chat": PublishedModel(hub_id="Qwen/Qwen1.5-7B-Chat", template_type="qwen"),
        "qwen1half-7b-chat-int4": PublishedModel(
            hub_id="Qwen/Qwen1.5-7B-Chat-GPTQ-Int4", template_type="qwen"
        ),
        "qwen2-7b-instruct": PublishedModel(hub_id="Qwen/Qwen2-7B-Instruct", template_type="qwen"),
        "chatglm3-6b": PublishedModel(
            hub_id="zai-org/chatglm3-6b", template_type="chatglm3", has_code=True
        ),
        "yi-6b-chat": PublishedModel(hub_id="01-ai/Yi-6B-Chat", template_type="yi"),
        "llama2-7b-chat": PublishedModel(
            hub_id="meta-llama/Llama-2-7b-chat-hf", template_type="llama"
        ),
        "llama3-8b-instruct": PublishedModel(
            hub_id="meta-llama/Meta-Llama-3-8B-Instruct", template_type="llama3"
        ),
    }
)


class _Names(type):
    def __getattr__(cls, name: str) -> str:
        for model_type in PUBLISHED:
            if name == model_type.replace("-", "_"):
                return model_type
        raise AttributeError(unknown_type(name.replace("_", "-")))


class ModelType(metaclass=_Names):
    """The names as attributes: `ModelType.qwen_7b_chat` is `qwen-7b-chat`."""


def published(model_type: str) -> PublishedModel | None:
    """What is known of a model type; None if it is a folder or an id of a hub instead.

    Raises:
        ParameterError: If it is neither.
    """
    if model_type in PUBLISHED:
        return PUBLISHED[model_type]
    if model_type == "demo" or "/" in model_type or Path(model_type).exists():
        return None
    raise ParameterError(unknown_type(model_type), param="model_type")


def unknown_type(model_type: str) -> str:
    """Says that there is no such type, and which one is meant."""
    near = get_close_matches(model_type, PUBLISHED, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PUBLISHED)}"
    return (
        f"unknown model type {model_type!r}; {hint} Any other model is named by its folder or its "
        "id on a hub, here or with --model_id_or_path"
    )
