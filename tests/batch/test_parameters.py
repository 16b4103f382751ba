"""Which source wins, and that each parameter says where it came from."""

import pytest

from martlet.backends.base import DefaultParams
from martlet.batch.parameters import ParamSources
from martlet.errors import ParameterError

FOLDER = DefaultParams(values={"temperature": 0.7, "top_p": 0.8, "top_k": 20})
GREEDY = DefaultParams(values={"temperature": 0.0})


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


def test_a_folder_may_recommend_greedy_replies() -> None:
    effective = ParamSources(verb="generate").resolve({}, GREEDY)
    assert effective.params.is_greedy
    assert effective.name_to_source["temperature"] == "generation_config.json"


def test_several_samples_are_drawn_although_the_folder_recommends_greedy() -> None:
    effective = ParamSources(verb="vote", given={"n": 3}).resolve({}, GREEDY)
    assert effective.params.temperature == 0.7
    source = "default of martlet vote for several samples"
    assert effective.name_to_source["temperature"] == source


def test_several_greedy_samples_are_refused_with_the_source() -> None:
    given = {"n": 3, "temperature": 0}
    with pytest.raises(ParameterError, match=r"temperature 0 \(command line\) makes all 3"):
        ParamSources(verb="vote", given=given).resolve({}, FOLDER)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ParameterError, match="unknown parameter 'temprature'; known: n, temp"):
        ParamSources(verb="vote", given={"temprature": 1}).resolve({}, FOLDER)
