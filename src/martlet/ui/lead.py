"""How a tab begins: a sentence that says what it is for, and an example to try."""

import gradio as gr

from martlet.ui.question import question_prompt
from martlet.ui.site import Words


def add_lead(words: Words, tab: str) -> None:
    """Says what a tab is for. Made inside the tab.

    Args:
        words: Of the page.
        tab: Its name in `words`.
    """
    gr.Markdown(words[f"{tab}_lead"], elem_classes="hint")


def add_example(words: Words, box: gr.Textbox, options: gr.Textbox | None = None) -> None:
    """A button that fills in a puzzle, for whoever does not know yet what to ask.

    Args:
        words: Of the page.
        box: For the puzzle.
        options: For its options; without it they go into the box too.
    """
    button = gr.Button(words["example"], size="sm", elem_classes="example")
    if options is None:
        button.click(lambda: example_prompt(words), None, [box], show_progress="hidden")
    else:
        puzzle = (words["example_question"], words["example_options"])
        button.click(lambda: puzzle, None, [box, options], show_progress="hidden")


def example_prompt(words: Words) -> str:
    """The puzzle with its options, as one prompt."""
    return question_prompt(words["example_question"], words["example_options"].splitlines())
