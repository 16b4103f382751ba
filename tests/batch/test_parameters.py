"""Which source wins, and that each parameter says where it came from."""

import pytest

from martlet.backends.base import DefaultParams
from martlet.batch.parameters import ParamSources
from martlet.errors import ParameterError

FOLDER = DefaultParams(
    values={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": None, "max_length": 99}
)


def test_each_parameter_has_the_nearest_source() -> None:
    sources = ParamSources(
        verb="vote", given={"top_k": 5, "n": 3}, verb_defaults={"top_p": 0.9, "max_tokens": 512}
    )
    effective = sources.resolve({"n": 2}, FOLDER)
    card = effective.as_card()
    assert card["n"] == {"value": 2, "source": "row"}
    assert card["top_k"] == {"value": 5, "source": "command line"}
    assert card["top_p"] == {"value": 0.8, "source": "generation_config.json"}
    assert card["temperature"] == {"value": 0.7, "source": "generation_config.json"}
    assert card["max_tokens"] == {"value": 512, "source": "default of martlet vote"}
    assert card["min_p"] == {"value": 0.0, "source": "default of martlet"}
    assert effective.params.top_p == 0.8


def test_a_folder_that_does_not_sample_is_greedy() -> None:
    folder = DefaultParams(values={"do_sample": False, "temperature": 0.7})
    effective = ParamSources(verb="generate").resolve({}, folder)
    assert effective.params.is_greedy
    assert effective.name_to_source["temperature"] == "generation_config.json"


def test_several_greedy_samples_are_refused_with_the_source() -> None:
    folder = DefaultParams(values={"do_sample": False})
    with pytest.raises(
        ParameterError, match=r"temperature 0 \(generation_config\.json\) makes all"
    ):
        ParamSources(verb="vote", given={"n": 3}).resolve({}, folder)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ParameterError, match="unknown parameter 'temprature'; known: n, temp"):
        ParamSources(verb="vote", given={"temprature": 1}).resolve({}, FOLDER)
