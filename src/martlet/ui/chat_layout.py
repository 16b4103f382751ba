"""What the chat tab looks like."""

from typing import Any, get_args

import gradio as gr

from martlet.text.conversation import ContextPolicy
from martlet.ui.lead import example_prompt
from martlet.ui.sampling import SamplingControls
from martlet.ui.site import Words


class ChatLayout:
    """The parts of the tab: the conversation on the left, what it is held with on the right.

    Args:
        words: Of the page.
    """

    def __init__(self, words: Words) -> None:
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=3, min_width=320, elem_classes="talk"):
                self._add_conversation(words)
            with gr.Column(scale=1, min_width=280):
                self._add_choices(words)

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        own = [
            self.chatbot,
            self.branches,
            self.figures,
            self.box,
            self.model,
            self.conversations,
            self.forget,
            self.system,
            self.effective,
        ]
        return [*own, *self.sampling.components]

    def _add_conversation(self, words: Words) -> None:
        self.chatbot = gr.Chatbot(
            show_label=False,
            layout="bubble",
            editable="user",
            buttons=["copy"],
            placeholder=words["chat_placeholder"],
            examples=[{"text": example_prompt(words), "display_text": words["example"]}],
            reasoning_tags=[("<think>", "</think>")],
            allow_tags=False,
            elem_id="conversation",
        )
        self.branches = gr.Radio(
            [], label=words["branches"], visible=False, elem_classes="branches"
        )
        self.figures = gr.HTML(elem_id="figures", elem_classes="told", padding=False)
        self.box = gr.Textbox(
            show_label=False,
            label=words["question"],
            placeholder=words["ask_placeholder"],
            lines=1,
            max_lines=12,
            submit_btn=True,
            autofocus=True,
            elem_id="question",
        )

    def _add_choices(self, words: Words) -> None:
        self.model = gr.Dropdown([], label=words["model"], elem_id="model")
        with gr.Row(elem_classes="keep"):
            self.new = gr.Button(
                words["new"], size="sm", variant="primary", min_width=80, elem_id="new"
            )
            self.forget = gr.Button(
                words["forget"], size="sm", min_width=80, interactive=False, elem_id="forget"
            )
        self.is_sure = gr.Checkbox(visible=False)
        self.conversations = gr.Radio(
            [], label=words["conversations"], visible=False, elem_classes="list"
        )
        self.download = gr.Button(words["download_rows"], size="sm", elem_id="download-rows")
        self.rows = gr.Textbox(visible=False)
        self.system = gr.Textbox(
            label=words["system"],
            placeholder=words["system_placeholder"],
            lines=2,
            max_lines=8,
            elem_id="system",
        )
        with gr.Accordion(words["sampling"], open=False, elem_id="chat-sampling"):
            self.sampling = SamplingControls(words)
            self.policy = gr.Dropdown(
                [(words[f"policy_{name}"], name) for name in get_args(ContextPolicy)],
                value="drop-old-turns",
                label=words["policy"],
            )
        with gr.Accordion(words["effective"], open=False):
            self.effective = gr.HTML(f"<p>{words['effective_none']}</p>", padding=False)
