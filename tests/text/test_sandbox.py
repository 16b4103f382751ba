"""A template renders without transformers as it renders there, and gets out no further."""

import enum
from datetime import datetime

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from martlet.text.sandbox import render_chat

MESSAGES = (
    {"role": "user", "content": "1 < 2 & 世界", "name": None},
    {"role": "assistant", "content": "yes", "reasoning": "because"},
    {"role": "user", "content": "bye"},
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": [True, None]}}}]
TEMPLATES = {
    "blocks": "  {% for m in messages %}\n    {% if m.name is defined %}x{% endif %}\n"
    "{{ m.role }}\n  {% endfor %}\n",
    "json": "{{ tools | tojson }}{{ tools | tojson(indent=4) }}{{ messages[0] | tojson }}"
    "{{ tools | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "loops": "{% for m in messages %}{% if loop.index0 == 0 %}{% continue %}{% endif %}"
    "{{ m.content }}{% break %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, self=1) %}{% for m in messages %}"
    "{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n }}{{ ns.self }}",
    "dictionaries": "{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys(['c'], 3) }}",
    "generation": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}"
    "{{ m.content }}{{ x }}{% endgeneration %}{{ x }}{% endfor %}",
    "reasoning": "{{ messages[1].thinking }}{{ messages[1].reasoning_content }}",
    "variables": "{{ bos_token }}{{ documents }}{{ add_generation_prompt }}{{ absent }}{{ odd }}",
}


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_it_renders_as_transformers_does(source):
    turns = [{k: v for k, v in turn.items() if v is not None} for turn in MESSAGES]
    variables = {"bos_token": "<s>", "tools": TOOLS, "odd": object(), "documents": None}
    (expected,), _ = render_jinja_template(
        [turns], chat_template=source, add_generation_prompt=True, **variables
    )
    rendered = render_chat(source, MESSAGES, {**variables, "add_generation_prompt": True})
    assert rendered == expected


def test_the_date_is_today():
    source = "{{ strftime_now('%Y') }}"
    assert render_chat(source, MESSAGES, {}) == str(datetime.now().year)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ dict.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_it_is_refused_what_transformers_refuses(source):
    with pytest.raises(jinja2.exceptions.TemplateError):
        render_jinja_template([list(MESSAGES)], chat_template=source)
    with pytest.raises(jinja2.exceptions.TemplateError):
        render_chat(source, MESSAGES, {})


def test_what_is_not_plain_is_hidden():
    class Role(enum.StrEnum):
        USER = "user"

        def leak(self):
            return "leaked"

    source = "{{ messages[0].role }}{{ messages[0].role.leak is defined }}"
    assert render_chat(source, [{"role": Role.USER}], {}) == "userFalse"
