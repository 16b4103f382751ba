"""A reply that grows on a screen: at its end it stands there once, whole, as if printed at once."""

import io
import random

import pytest
from rich.console import Console

from chat.screen import Screen
from martlet.cli.terminal.comparison import comparison_shown
from martlet.cli.terminal.display import MarkdownDisplay, markdown, reply_shown, settled_part

REPLY = """# A plan

Some **bold** words, `code`
and a second line of them, long enough that it must be wrapped by any terminal of this width.

- first
- second, with *emphasis*
  1. nested

  more of the second

| name | side |
|------|------|
| Anna | left |

```python
for _ in range(3):
    print("a")


    print("b")
```

> A quotation
> of two lines.

答案是：**B**。 1 < 2 <b>html</b>

---
The end
"""
LONG_BLOCK = "Before.\n\n```\n" + "\n".join(f"line {n}" for n in range(60)) + "\n```\n\nAfter."
HEIGHT, WIDTH = 12, 60


def console_on(file: io.StringIO) -> Console:
    return Console(
        file=file, force_terminal=True, width=WIDTH, height=HEIGHT, highlight=False, _environ={}
    )


def printed_at_once(text: str) -> str:
    file = io.StringIO()
    console_on(file).print(markdown(text))
    screen = Screen(HEIGHT)
    screen.write(file.getvalue())
    return screen.text


@pytest.mark.parametrize("text", [REPLY, LONG_BLOCK, "one line", ""])
@pytest.mark.parametrize("seed", range(3))
def test_what_grew_is_what_would_have_been_printed(text: str, seed: int) -> None:
    draw, screen, file, rest = random.Random(seed), Screen(HEIGHT), io.StringIO(), text
    display = MarkdownDisplay(console_on(file), seconds_between_refreshes=0)
    with display:
        while rest:
            size = draw.randint(1, 12)
            display.push(rest[:size])
            rest = rest[size:]
    written = file.getvalue()
    screen.write(written)
    assert screen.text == printed_at_once(text)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1, "the cursor comes back"
    assert " \r\n" not in written, "no blanks at the end of a line"


def test_settled_blocks_are_not_drawn_again() -> None:
    file = io.StringIO()
    display = MarkdownDisplay(console_on(file), seconds_between_refreshes=0)
    with display:
        for number in range(50):
            display.push(f"Paragraph {number}.\n\n")
    assert max(file.getvalue().count(f"Paragraph {number}.") for number in range(49)) <= 3


def test_what_may_still_change_is_not_settled() -> None:
    assert settled_part("one\n\ntwo") == "one\n"
    assert settled_part("- one\n\n  more of it\n- two") == ""
    assert settled_part("text\n```\ncode\n\ncode") == "text"


def test_elsewhere_the_text_stays_as_it_is() -> None:
    file = io.StringIO()
    with reply_shown(Console(file=file)) as display:
        for piece in ("# Ti", "tle\n", "**bold**"):
            display.push(piece)
    assert file.getvalue() == "# Title\n**bold**\n"


def test_a_comparison_stands_side_by_side_or_one_after_the_other() -> None:
    file = io.StringIO()
    with comparison_shown(console_on(file), ["base", "judge"]) as show:
        show(0, "left\n")
        show(1, "right")
        show(0, "below")
    screen = Screen(HEIGHT)
    screen.write(file.getvalue())
    assert screen.text.count("base") == 1
    row = next(line for line in screen.text.splitlines() if "left" in line)
    assert "right" in row
    plain = io.StringIO()
    with comparison_shown(Console(file=plain), ["base", "judge"]) as show:
        show(1, "right")
        show(0, "left")
    assert plain.getvalue() == "## base\n\nleft\n\n## judge\n\nright\n\n"


def test_a_narrow_comparison_leaves_nothing_out() -> None:
    file, text = io.StringIO(), "甲紧挨在乙右边。丙在一号位" * 6
    with comparison_shown(console_on(file), ["base", "judge"]) as show:
        show(0, text)
        show(1, "short")
    screen = Screen(HEIGHT)
    screen.write(file.getvalue())
    cells = [line.split("│")[1] for line in screen.text.splitlines() if line.count("│") == 3]
    assert "".join("".join(cells).split()) == text
