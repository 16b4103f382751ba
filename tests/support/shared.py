"""Where the tests' real material lies; a checkout without it skips the tests that need it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""Real tokenizers, templates, data and one trained model, beside the repository."""

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no material in {SHARED}")
"""Marks a test that reads from `SHARED`."""
