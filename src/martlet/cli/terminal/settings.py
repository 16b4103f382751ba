"""What `/set` changes: sampling parameters and the context policy."""

import json
from collections.abc import Mapping
from dataclasses import fields

from martlet.backends.base import DefaultParams
from martlet.batch.parameters import EffectiveParams, ParamSources
from martlet.cli.terminal.names import unknown
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError
from martlet.text.conversation import ContextPolicy, check_policy

POLICY = "context_policy"
_UNSET = "default"
_NOT_OF_A_CHAT = ("n", "logit_bias", "logprobs", "prompt_logprobs", "structured")
NAMES = (
    *(field.name for field in fields(SamplingParams) if field.name not in _NOT_OF_A_CHAT),
    POLICY,
)
"""What can be set."""
_DEFAULTS: Mapping[str, object] = {"temperature": 0.7}


class Settings:
    """How replies are drawn; the chat may change it between two of them.

    Args:
        given: The sampling parameters of the command line.
        model: What the model's folder recommends.
        policy: What becomes of a conversation that outgrows the context.

    Raises:
        ParameterError: If a value is out of its range.
    """

    def __init__(
        self, given: Mapping[str, object], model: DefaultParams, *, policy: ContextPolicy
    ) -> None:
        self._sources = ParamSources(verb="chat", given=given, verb_defaults=_DEFAULTS)
        self._model = model
        self._changed: dict[str, object] = {}
        self._effective = self._resolve(self._changed)
        self.policy = policy

    @property
    def params(self) -> SamplingParams:
        """The effective sampling parameters."""
        return self._effective.params

    def rows(self) -> list[tuple[str, str, str]]:
        """Each name, its effective value and where that comes from."""
        sources = self._effective.name_to_source
        values = [(name, getattr(self.params, name), sources[name]) for name in NAMES[:-1]]
        shown = [(name, _shown(value), _source(source)) for name, value, source in values]
        return [*shown, (POLICY, self.policy, "")]

    def set(self, name: str, text: str) -> None:
        """Changes one of them.

        Args:
            name: One of `NAMES`.
            text: The value: JSON, or a text as it stands; `default` takes a change back.

        Raises:
            ParameterError: If the name is unknown or the value out of its range.
        """
        if name not in NAMES:
            raise ParameterError(unknown(name, NAMES, what="setting"))
        if name == POLICY:
            self.policy = check_policy(text)
            return
        changed = {key: value for key, value in self._changed.items() if key != name}
        if text != _UNSET:
            changed[name] = _value(text)
        self._effective = self._resolve(changed)
        self._changed = changed

    def _resolve(self, changed: Mapping[str, object]) -> EffectiveParams:
        return self._sources.resolve(changed, self._model)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _source(source: str) -> str:
    # What outweighs the command line is called a row's there; here it is what was typed last.
    return "/set" if source == "row" else source
