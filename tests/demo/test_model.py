"""The shipped model: its size, its tokenizer, its template, and that it has really learned."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from martlet.demo import model_path, puzzles_path
from martlet.demo.evaluation import read_letter
from martlet.demo.kinds.wording import DIRECTIONS, NAMES
from martlet.demo.lessons import render_prompt
from martlet.demo.puzzles import unseen_puzzles

MAX_NUM_PARAMETERS = 6_000_000
MAX_SIZE_BYTES = 12_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_path())


def test_it_is_small(model: PreTrainedModel) -> None:
    assert model.num_parameters() <= MAX_NUM_PARAMETERS
    assert sum(path.stat().st_size for path in model_path().iterdir()) <= MAX_SIZE_BYTES
    assert {path.name for path in model_path().iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_special_tokens_agree_everywhere(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.temperature == 0.7
    assert model.config.vocab_size == len(tokenizer)


def test_the_template_is_chatml(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Go on"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n"
        "<|im_start|>user\nGo on<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "text",
    ["The cat lives in the red house.", "甲住红屋。鼠在红屋。", "naïve 🐦 ﷽ \t\n  龘", ""],
)
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text, add_special_tokens=False)


def test_names_and_directions_are_single_tokens(tokenizer: Tokenizer) -> None:
    words = [f" {word}" for word in NAMES["en"] + DIRECTIONS["en"]]
    for word in [*words, *NAMES["zh"], *DIRECTIONS["zh"]]:
        assert len(tokenizer.encode(word)) == 1, word


def test_it_answers_unseen_puzzles_far_above_chance(
    model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    asked = [(puzzle, q) for puzzle in unseen_puzzles(count=24) for q in puzzle.questions]
    prompts = [render_prompt(tokenizer, puzzle, question) for puzzle, question in asked]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        ids = model.generate(**encoded, do_sample=False, temperature=None, max_new_tokens=64)
    replies = tokenizer.batch_decode(
        ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    letters = [read_letter(reply) for reply in replies]
    num_right = sum(
        letter == question.answer for letter, (_, question) in zip(letters, asked, strict=True)
    )
    assert num_right / len(asked) > 0.5
    assert letters.count(None) / len(asked) < 0.1


def test_prompts_fit_the_context_with_room_for_a_reply(tokenizer: Tokenizer) -> None:
    lengths = [
        len(tokenizer.encode(render_prompt(tokenizer, puzzle, question)))
        for puzzle in unseen_puzzles(count=90)
        for question in puzzle.questions
    ]
    assert max(lengths) + 128 <= 512


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, martlet.demo; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert json.loads(puzzles_path().read_text("utf-8").splitlines()[0])["id"] == "demo-000"
