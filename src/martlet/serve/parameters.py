"""The effective sampling parameters of a request, and where each came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from martlet.backends.base import DefaultParams
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class EffectiveParams:
    """Sampling parameters with the source of each."""

    params: SamplingParams
    name_to_source: Mapping[str, str]
    """`request`, the model's file, the endpoint, or `default of martlet`."""

    def as_json(self) -> dict[str, object]:
        """Each parameter's value and source."""
        values = asdict(self.params)
        return {
            name: {"value": values[name], "source": source}
            for name, source in self.name_to_source.items()
        }


def effective_params(
    given: Mapping[str, object],
    model: DefaultParams,
    *,
    endpoint: str = "",
    endpoint_defaults: Mapping[str, object] | None = None,
) -> EffectiveParams:
    """Merges all sources: the request wins over the model's folder, that over the endpoint.

    Args:
        given: What the request sets, under the names of `SamplingParams`.
        model: What the model's folder recommends.
        endpoint: Names the source of `endpoint_defaults`.
        endpoint_defaults: What the endpoint documents as its own defaults.

    Raises:
        ParameterError: If a value is out of its range.
    """
    sources: list[tuple[str, Mapping[str, object]]] = [
        (f"default of {endpoint}", endpoint_defaults or {}),
        (model.source, model.values),
        ("request", given),
    ]
    values: dict[str, object] = {}
    name_to_source = {item.name: "default of martlet" for item in fields(SamplingParams)}
    for source, mapping in sources:
        values.update(mapping)
        name_to_source.update(dict.fromkeys(mapping, source))
    try:
        params = SamplingParams.from_mapping(values)
    except ParameterError as error:
        named = [name for name in given if name in str(error)]
        raise ParameterError(str(error), param=max(named, key=len, default=None)) from error
    return EffectiveParams(params=params, name_to_source=name_to_source)
