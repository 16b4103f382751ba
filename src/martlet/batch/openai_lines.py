"""Lines of an OpenAI batch file: what the body of a request asks, and with which parameters."""

from collections.abc import Mapping
from dataclasses import fields

from martlet.backends.base import Prompt
from martlet.engine.params import SamplingParams
from martlet.errors import InputError, ParameterError
from martlet.text.structured import StructuredOutput

_NOT_PER_ROW = ("logprobs", "prompt_logprobs", "skip_special_tokens")
_PER_ROW = tuple(field.name for field in fields(SamplingParams) if field.name not in _NOT_PER_ROW)
_NEWER_NAMES = {"max_completion_tokens": "max_tokens"}
_FORM = "response_format"
_NOT_PARAMETERS = ("messages", "prompt", "model", "user")
_URL_TO_COLUMN = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}


def check_envelope(line: Mapping[str, object]) -> None:
    """Checks `method` and `url` against what the body asks.

    Raises:
        InputError: If either is not that of a chat or text completion.
    """
    if line.get("method", "POST") != "POST":
        raise InputError(f"method must be POST, not {line['method']!r}")
    url, body = line.get("url"), line.get("body")
    if url is None or not isinstance(body, Mapping):
        return
    if not isinstance(url, str) or url not in _URL_TO_COLUMN:
        raise InputError(f"url must be one of {', '.join(_URL_TO_COLUMN)}, not {url!r}")
    if _URL_TO_COLUMN[url] not in body:
        raise InputError(f"a body for {url} holds {_URL_TO_COLUMN[url]!r}")


def body_text(body: Mapping[str, object]) -> Prompt:
    """The prompt of a text completion: words that meet no chat template.

    Raises:
        InputError: If there is no text.
    """
    text = body.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise InputError("the body asks nothing: it holds neither 'messages' nor a text 'prompt'")
    return Prompt(text=text)


def body_parameters(body: Mapping[str, object]) -> dict[str, object]:
    """The sampling parameters of a body, under Martlet's names; null means not given.

    `model` and `user` are let through without effect: the run's own model answers.

    Raises:
        ParameterError: If a field is none of the parameters that a row may set.
    """
    parameters: dict[str, object] = {}
    for given_name, value in body.items():
        name = _NEWER_NAMES.get(given_name, given_name)
        is_streamless = name == "stream" and not value
        if name in _NOT_PARAMETERS or is_streamless or value is None:
            continue
        if name == _FORM:
            parameters["structured"] = StructuredOutput.from_response_format(value)
            continue
        if name not in _PER_ROW:
            raise ParameterError(f"unknown field {given_name!r} in body; known: {_known_fields()}")
        parameters[name] = _with_token_ids(value) if name == "logit_bias" else value
    return parameters


def _known_fields() -> str:
    return ", ".join((*_NOT_PARAMETERS, *_PER_ROW, *_NEWER_NAMES, _FORM))


def _with_token_ids(biases: object) -> object:
    # JSON has no integer keys; what is no integer is left for SamplingParams to refuse.
    if not isinstance(biases, Mapping):
        raise ParameterError(f"logit_bias maps token ids to numbers, not {biases!r}")
    return {
        int(token_id) if isinstance(token_id, str) and token_id.isdecimal() else token_id: bias
        for token_id, bias in biases.items()
    }
