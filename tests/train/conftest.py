"""Rows to train on."""

from pathlib import Path

import pytest

from train.runs import write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", count=24)
