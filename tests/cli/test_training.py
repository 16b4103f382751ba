"""What is told at the end of a training."""

from pathlib import Path

import pytest

from martlet.cli.training import serving_command
from martlet.train.config import resolve_config


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({}, "martlet serve demo --adapter judge=runs/judge"),
        # The base answers to the last part of its name, so an adapter may not.
        ({"model": "./judge"}, "martlet serve ./judge --adapter judge-tuned=runs/judge"),
        # Without the template of its training, the adapter would be refused.
        (
            {"chat_template": Path("own.jinja")},
            "martlet serve demo --adapter judge=runs/judge "
            "--chat-template runs/judge/chat_template.jinja",
        ),
        (
            {"out": Path("my runs/judge")},
            "martlet serve demo --adapter 'judge=my runs/judge'",
        ),
    ],
)
def test_the_next_command_is_one_that_serves(given: dict[str, object], command: str) -> None:
    config = resolve_config(
        {"data": ["rows.jsonl"], "model": "demo", "out": Path("runs/judge"), **given}
    )
    assert serving_command(config) == command
