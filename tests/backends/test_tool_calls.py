"""A tool call from tools and a conversation to arguments, and back into the conversation."""

import json
from pathlib import Path

from martlet.backends.base import Prompt, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.engine.params import SamplingParams
from martlet.models.folder import ModelFolder
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.functions import read_functions
from support.tool_template import TEMPLATE, TOOL

ASKED = [{"role": "user", "content": "Which option is right?"}]


def test_a_required_call_is_drawn_parsed_and_rendered_again(
    tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    options = BackendOptions(dtype="fp32", kv_memory_gib=0.05, chat_template=template)
    backend = load_backend(str(tiny_llama.path), options=options)
    tokenizer = Tokenizer.load(tiny_llama.path, chat_template=TEMPLATE)
    assert tokenizer.tool_calls is not None
    functions = read_functions([TOOL])
    form = tokenizer.tool_calls.structured_output(functions, is_required=True, is_parallel=False)
    params = SamplingParams(structured=form)
    backend.prepare(params)
    rendered = backend.render(Prompt(messages=ASKED, tools=[TOOL]))
    assert '"move"' in rendered.text
    for seed in range(4):
        request = SampleRequest(
            request_id=f"{seed}", prompt_ids=rendered.token_ids, params=params, seed=seed
        )
        backend.submit(request)
    outputs = []
    while backend.num_unfinished:
        outputs += backend.poll()
    for output in outputs:
        assert output.finish_reason == "stop"
        reply = tokenizer.tool_calls.parse(output.text, functions)
        (call,) = reply.tool_calls
        assert json.loads(call.arguments)["side"] in ("left", "right")
        function = {"name": call.name, "arguments": call.arguments}
        turn = {"role": "assistant", "tool_calls": [{"id": call.id, "function": function}]}
        result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
        again = backend.render(Prompt(messages=[*ASKED, turn, result], tools=[TOOL]))
        assert "</tool_call><|im_end|>\n<|im_start|>tool\ndone<|im_end|>" in again.text
    backend.close()
