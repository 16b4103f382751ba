"""The losses of a run as a picture."""

import json
from pathlib import Path


def read_losses(metrics: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Training and validation loss by step; of a step that was done twice, the later.

    Args:
        metrics: `metrics.jsonl` of a run.
    """
    training: dict[int, float] = {}
    validation: dict[int, float] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            training[entry["step"]] = entry["loss"]
        if "validation_loss" in entry:
            validation[entry["step"]] = entry["validation_loss"]
    return training, validation


def draw_curve(metrics: Path, picture: Path) -> None:
    """Draws `metrics.jsonl` to a PNG file."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    training, validation = read_losses(metrics)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*sorted(training.items()), strict=True), label="training", linewidth=1)
    if validation:
        points = zip(*sorted(validation.items()), strict=True)
        axes.plot(*points, label="validation", marker="o", linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture)
