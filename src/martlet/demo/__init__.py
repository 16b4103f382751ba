"""The embedded default: a tiny model trained from scratch, and puzzles that it has not seen.

Owns the shipped files and where they lie. Importing it loads nothing heavy.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def model_path() -> Path:
    """The folder of the embedded model, as transformers loads it."""
    return _FOLDER / "model"


def puzzles_path() -> Path:
    """The embedded puzzle file: JSON Lines, one problem with its questions a line."""
    return _FOLDER / "puzzles.jsonl"


def held_out_path() -> Path:
    """Puzzles of the family that the embedded model was never trained on, in the same format."""
    return _FOLDER / "held_out.jsonl"
