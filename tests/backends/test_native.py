"""Words around the engine: text, stops, seeds, and the Python interface under vLLM's names."""

from pathlib import Path

import pytest

from martlet import LLM, SamplingParams
from martlet.backends.base import Prompt, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.opened import open_model
from martlet.backends.options import BackendOptions
from martlet.backends.transformers import TransformersBackend
from martlet.errors import (
    AdapterError,
    EngineError,
    ModelError,
    NotFoundError,
    ParameterError,
    PromptTooLongError,
    TemplateError,
    UnsupportedArchitectureError,
)
from martlet.models.folder import ModelFolder
from support.adapters import load_with_peft, make_adapter
from support.engines import greedy_reply
from support.shared import SHARED, needs_shared
from support.tiny_models import REFUSED, tiny_model_folder
from support.tool_template import TEMPLATE, TOOL

MESSAGES = [{"role": "user", "content": "Which option is right?"}]


@pytest.fixture(scope="module")
def llm(tiny_llama: ModelFolder) -> LLM:
    return LLM(str(tiny_llama.path), dtype="fp32", kv_memory_gib=0.05)


def test_the_articles_script_runs(tiny_llama: ModelFolder) -> None:
    """`LLM(model, tokenizer)`, the template applied by hand, three passes of `generate`."""
    from transformers import AutoTokenizer

    path = str(tiny_llama.path)
    llm = LLM(path, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in ("1 + 2 = ?", "小明在谁的左边？")
    ]
    params = SamplingParams(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_tokens=16)
    passes = [llm.generate(prompts, params) for _ in range(3)]
    texts = {tuple(output.outputs[0].text for output in outputs) for outputs in passes}
    assert len(texts) == 3, "three passes must draw three different samples"
    assert [output.prompt for output in passes[0]] == prompts


def test_chat_applies_the_template(llm: LLM) -> None:
    (output,) = llm.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=4))
    assert output.prompt == (
        "<|im_start|>user\nWhich option is right?<|im_end|>\n<|im_start|>assistant\n"
    )
    (raw,) = llm.generate(output.prompt, SamplingParams(temperature=0, max_tokens=4))
    assert raw.prompt_token_ids == output.prompt_token_ids
    assert raw.outputs[0].token_ids == output.outputs[0].token_ids


def test_chat_shows_tools_and_variables_to_the_template(
    tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(TEMPLATE + "{% if hurry %}Quick!{% endif %}", encoding="utf-8")
    llm = LLM(str(tiny_llama.path), dtype="fp32", kv_memory_gib=0.05, chat_template=template)
    params = SamplingParams(temperature=0, max_tokens=2)
    (output,) = llm.chat(
        MESSAGES, params, tools=[TOOL], chat_template_kwargs={"hurry": True}, use_tqdm=False
    )
    assert '"name": "move"' in output.prompt
    assert output.prompt.endswith("Quick!")
    with pytest.raises(TemplateError, match="haste"):
        llm.chat(MESSAGES, params, chat_template_kwargs={"haste": True})


def test_n_samples_differ_and_a_seed_repeats_them(llm: LLM) -> None:
    params = SamplingParams(n=4, temperature=1.0, max_tokens=12, seed=5, ignore_eos=True)
    first, again = llm.chat([MESSAGES, MESSAGES], params)
    replies = [sample.token_ids for sample in first.outputs]
    assert len(set(replies)) == 4
    assert [sample.token_ids for sample in again.outputs] == replies
    assert [sample.index for sample in first.outputs] == [0, 1, 2, 3]


def test_stop_strings_end_a_reply_wherever_tokens_break(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    full = llm.generate("The quick brown", params)[0].outputs[0].text
    for start in range(3, len(full) - 4):
        stop = full[start : start + 3]
        if "\ufffd" in stop:
            continue
        stopped = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop=(stop,))
        sample = llm.generate("The quick brown", stopped)[0].outputs[0]
        assert sample.text == full[: full.index(stop)]
        assert (sample.finish_reason, sample.stop_reason) == ("stop", stop)


def test_logprobs_are_there_when_asked_for(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=1)
    (output,) = llm.generate("The answer is A", params)
    sample = output.outputs[0]
    assert sample.logprobs is not None
    assert output.prompt_logprobs is not None
    own = [
        position[token_id]
        for position, token_id in zip(sample.logprobs, sample.token_ids, strict=True)
    ]
    assert sample.cumulative_logprob == pytest.approx(sum(token.logprob for token in own))
    assert all(token.rank == 1 for token in own), "greedy takes the most likely"
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    plain = llm.generate("The answer is A", SamplingParams(temperature=0, max_tokens=5))
    assert plain[0].outputs[0].cumulative_logprob is None


def test_a_failed_step_is_an_error_that_names_its_cause(tiny_llama: ModelFolder) -> None:
    llm = LLM(str(tiny_llama.path), kv_memory_gib=0.05)
    backend = llm._backend
    assert isinstance(backend, NativeBackend)

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = backend.engine._model.module.register_forward_pre_hook(out_of_memory)
    with pytest.raises(EngineError, match=r"2 of 2 samples failed.*out of memory"):
        llm.generate("1 + 2 =", SamplingParams(n=2, max_tokens=4))
    hook.remove()
    assert llm.generate("1 + 2 =", SamplingParams(max_tokens=4))[0].finished


def test_nothing_stays_queued_after_a_refused_call(llm: LLM) -> None:
    long_prompt = [5] * 600
    with pytest.raises(PromptTooLongError):
        llm.generate([[5, 6], long_prompt], SamplingParams(max_tokens=4))
    assert llm._backend.num_unfinished == 0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda llm: llm.generate(""), Exception, "empty"),
        (lambda llm: llm.generate([[999]]), ParameterError, "999 is not in the vocabulary"),
        (
            lambda llm: llm.generate(["a", "b"], [SamplingParams()]),
            ParameterError,
            "1 sampling parameters were given for 2",
        ),
        (lambda llm: llm.chat([{"content": "no role"}]), TemplateError, "role"),
        (lambda _: LLM("demo", dtyp="fp32"), ParameterError, "unknown option 'dtyp'"),
        (lambda _: LLM("./nowhere"), NotFoundError, "nowhere"),
        (lambda _: LLM("demo", dtype="fp8"), ParameterError, "auto, fp32, bf16"),
        (lambda _: SamplingParams(top_p=1.7), ParameterError, "top_p must be from 0 to 1"),
    ],
)
def test_bad_calls_get_one_clear_error(llm: LLM, call, error, words) -> None:
    with pytest.raises(error, match=words):
        call(llm)


@needs_shared
def test_a_model_without_template_says_what_to_do() -> None:
    llm = LLM(str(SHARED / "models" / "stories260K"), kv_memory_gib=0.05)
    with pytest.raises(TemplateError, match=r"no chat template.*--chat-template"):
        llm.chat(MESSAGES)
    text = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=12))
    assert text[0].outputs[0].text.startswith(", there was a little")


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_the_guard_refuses_runs_on_transformers_and_says_so(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tiny_model_folder(architecture, tmp_path / architecture))
    options = BackendOptions(max_context_tokens=128)
    backend = load_backend(path, options=options)
    assert isinstance(backend, TransformersBackend)
    assert "runs on plain transformers instead" in caplog.text
    prompt = backend.render(Prompt(messages=MESSAGES))
    params = SamplingParams(temperature=0, max_tokens=4)
    backend.submit(
        SampleRequest(request_id="r", prompt_ids=prompt.token_ids, params=params, seed=0)
    )
    (output,) = backend.poll()
    assert output.finish_reason in ("stop", "length")
    with pytest.raises(UnsupportedArchitectureError):
        load_backend(path, options=BackendOptions(backend="native"))


def test_missing_weights_are_not_drawn_at_random(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    """transformers only warns, and the model answers noise."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_llama.path, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*layers\.1\.mlp\.down_proj"):
        load_backend(str(folder))


def test_a_tokenizer_with_too_many_ids_is_refused_before_loading(
    tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.path)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="320"):
        load_backend(str(tiny_llama.path), options=BackendOptions(tokenizer=str(tmp_path)))


@pytest.mark.parametrize("backend", ["native", "transformers"])
def test_the_pieces_of_a_stream_are_its_reply(tiny_llama: ModelFolder, backend: str) -> None:
    options = BackendOptions(backend=backend, dtype="fp32", kv_memory_gib=0.05)
    loaded = load_backend(str(tiny_llama.path), options=options)
    prompt_ids = loaded.render(Prompt(text="The quick brown")).token_ids
    params = SamplingParams(temperature=1.0, max_tokens=24, ignore_eos=True, logprobs=2)
    for number in range(3):
        loaded.submit(
            SampleRequest(
                request_id=str(number),
                prompt_ids=prompt_ids,
                params=params,
                seed=number,
                streams=number != 2,
            )
        )
    outputs, deltas = {}, []
    while loaded.num_unfinished:
        outputs.update((output.request_id, output) for output in loaded.poll())
        deltas += loaded.take_deltas()
    assert {delta.request_id for delta in deltas} == {"0", "1"}
    for request_id in ("0", "1"):
        pieces = [delta for delta in deltas if delta.request_id == request_id]
        output = outputs[request_id]
        assert "".join(piece.text for piece in pieces) == output.text
        assert tuple(t for piece in pieces for t in piece.token_ids) == output.token_ids
        assert tuple(s for piece in pieces for s in piece.logprobs or ()) == output.logprobs


def test_an_adapter_answers_the_calls_that_name_it(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "judge", tiny_llama, r=4, target_modules="all-linear")
    llm = LLM(str(tiny_llama.path), dtype="fp32", kv_memory_gib=0.05, adapters={"judge": str(path)})
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    (judged,) = llm.chat(MESSAGES, params, adapter="judge")
    (plain,) = llm.chat(MESSAGES, params)
    expected = greedy_reply(load_with_peft(tiny_llama, path), judged.prompt_token_ids, 8)
    assert list(judged.outputs[0].token_ids) == expected.token_ids
    assert plain.outputs[0].token_ids != judged.outputs[0].token_ids
    with pytest.raises(NotFoundError, match="no adapter is called 'jugde'; there are: judge"):
        llm.generate("text", params, adapter="jugde")


def test_adapters_are_looked_at_before_the_model_is_loaded(
    tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    adapters = {"judge": str(tmp_path / "nowhere")}
    with pytest.raises(NotFoundError, match="no such adapter folder"):
        open_model(str(tiny_llama.path), BackendOptions(adapters=adapters))
    with pytest.raises(ParameterError, match="run_adapter is 'x', and adapters names: judge"):
        BackendOptions(adapters=adapters, run_adapter="x")
    with pytest.raises(ParameterError, match="max_loaded_adapters is 0"):
        BackendOptions(adapters=adapters, max_loaded_adapters=0)


def test_plain_transformers_refuses_adapters_by_name(
    tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    path = make_adapter(tmp_path / "judge", tiny_llama, r=4, target_modules=["q_proj"])
    options = BackendOptions(backend="transformers", adapters={"judge": str(path)})
    with pytest.raises(ParameterError, match="adapter judge cannot be used on the transformers"):
        load_backend(str(tiny_llama.path), options=options)
    refused = tiny_model_folder("falcon", tmp_path / "falcon")
    with pytest.raises(AdapterError, match="where adapter judge cannot be used; give a merged"):
        load_backend(str(refused), options=BackendOptions(adapters={"judge": str(path)}))
