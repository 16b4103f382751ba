"""The losses of a training as a picture that grows: SVG, in the colours of the page."""

from collections.abc import Mapping, Sequence

from martlet.ui.site import Words

_MOST_POINTS = 400
"""More would not be told apart on a screen."""
_Point = tuple[float, float]


def curve(
    words: Words,
    training: Mapping[int, float],
    validation: Mapping[int, float],
    num_steps: int,
) -> str:
    """Losses by step, in nats a token; nothing before the first.

    Args:
        words: Of the page.
        training: After each step.
        validation: After some.
        num_steps: Of the whole training.
    """
    losses = [*training.values(), *validation.values()]
    if not losses:
        return ""
    highest = max(losses) or 1.0

    def placed(step_to_loss: Mapping[int, float]) -> list[_Point]:
        return [
            (100 * step / max(1, num_steps), 100 - 96 * loss / highest)
            for step, loss in _thinned(sorted(step_to_loss.items()))
        ]

    return (
        f'<figure class="curve"><figcaption>{words["loss"]}: '
        f"{_legend(words, 'training', training)}{_legend(words, 'validation', validation)}"
        f'</figcaption><div class="axes"><span>{highest:.2f}</span><span>0</span>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        f"{_line('training', placed(training))}{_line('validation', placed(validation))}"
        f"{_dots(placed(validation))}</svg></div>"
        f"<p><span>0</span><span>{words['curve_steps'].format(num_steps)}</span></p></figure>"
    )


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """So few that a picture can show them; the newest is among them."""
    stride = 1 + len(points) // _MOST_POINTS
    return points[::-1][::stride][::-1]


def _legend(words: Words, name: str, step_to_loss: Mapping[int, float]) -> str:
    if not step_to_loss:
        return ""
    newest = step_to_loss[max(step_to_loss)]
    return f'<span class="{name}">{words[name]} <b>{newest:.4f}</b></span> '


def _line(name: str, points: Sequence[_Point]) -> str:
    places = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polyline class="{name}" points="{places}"/>'


def _dots(points: Sequence[_Point]) -> str:
    """Lines without length: circles would be stretched with the picture."""
    return "".join(f'<path class="validation" d="M{x:.2f} {y:.2f}h0"/>' for x, y in points)
