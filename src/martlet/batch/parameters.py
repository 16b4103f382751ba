"""The effective sampling parameters of a run or a row, and where each came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from martlet.backends.base import DefaultParams
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class EffectiveParams:
    """Sampling parameters with the source of each."""

    params: SamplingParams
    name_to_source: Mapping[str, str]
    """`row`, `command line`, the model's file, `default of martlet vote`, `default of martlet`."""

    def as_card(self) -> dict[str, dict[str, object]]:
        """Each parameter's value and source, for the run card."""
        return {
            name: {"value": getattr(self.params, name), "source": source}
            for name, source in self.name_to_source.items()
        }


@dataclass(frozen=True, kw_only=True)
class ParamSources:
    """What the command line sets, and what the command sets unless told otherwise."""

    verb: str
    """The command, such as `vote`; names the source of its defaults."""
    given: Mapping[str, object] = field(default_factory=dict)
    verb_defaults: Mapping[str, object] = field(default_factory=dict)
    verb_fixed: Mapping[str, object] = field(default_factory=dict)
    """What the command sets whatever the model's folder recommends."""
    several_temperature: float = 0.7
    """Of several samples of a question, where the model's folder recommends greedy replies."""

    def resolve(self, row: Mapping[str, object], model: DefaultParams) -> EffectiveParams:
        """Merges all sources; a row wins over the command line, that over the model's folder,
        that over the command's defaults.

        Args:
            row: What one row sets for itself; empty for the run.
            model: What the model's folder recommends.

        Raises:
            ParameterError: If a parameter is unknown or out of its range, or if several samples
                are asked for and all would be the same.
        """
        sources: list[tuple[str, Mapping[str, object]]] = [
            (f"default of martlet {self.verb}", self.verb_defaults),
            (model.source, model.values),
            (f"martlet {self.verb}", self.verb_fixed),
            ("command line", self.given),
            ("row", row),
        ]
        values: dict[str, object] = {}
        name_to_source = {item.name: "default of martlet" for item in fields(SamplingParams)}
        for source, mapping in sources:
            values.update(mapping)
            name_to_source.update(dict.fromkeys(mapping, source))
        params = SamplingParams.from_mapping(values)
        if params.n > 1 and params.is_greedy and name_to_source["temperature"] == model.source:
            # The folder's advice is for one reply; several are wanted because they differ.
            params = replace(params, temperature=self.several_temperature)
            name_to_source["temperature"] = f"default of martlet {self.verb} for several samples"
        _check_samples_differ(params, name_to_source["temperature"])
        return EffectiveParams(params=params, name_to_source=name_to_source)


def _check_samples_differ(params: SamplingParams, source: str) -> None:
    if params.n > 1 and params.is_greedy:
        raise ParameterError(
            f"temperature 0 ({source}) makes all {params.n} samples of a question the same; "
            "give a temperature above 0, or ask for one sample"
        )
