"""The training script: branches train as if alone, and the same recipe writes the same weights."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import PreTrainedTokenizerFast as Tokenizer

from martlet.demo import model_path
from martlet.demo.curriculum import Curriculum, stream_batches, training_puzzles
from martlet.demo.lessons import collate, make_lesson
from martlet.demo.training import Recipe, batch_loss, train


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(model_path())


def test_branches_see_the_problem_and_themselves(tokenizer: Tokenizer) -> None:
    puzzle = next(p for p in training_puzzles(seed=1) if len(p.questions) > 1)
    lesson = make_lesson(tokenizer, puzzle)
    mask = collate([lesson], pad_id=0).attention_mask[0, 0]
    for seer, branch in enumerate(lesson.branches):
        expected = [
            seen <= seer and lesson.branches[seen] in (0, branch)
            for seen in range(len(lesson.branches))
        ]
        assert (mask[seer, : len(expected)] == 0).tolist() == expected


def test_a_branch_trains_as_if_it_stood_alone(tokenizer: Tokenizer) -> None:
    """In float32, to 1e-4: the products are added up in another order."""
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    puzzle = next(p for p in training_puzzles(seed=1) if len(p.questions) > 2)
    together = collate([make_lesson(tokenizer, puzzle)], pad_id=0)
    logits = model(
        input_ids=together.token_ids,
        position_ids=together.positions,
        attention_mask=together.attention_mask,
    ).logits[0]
    branched = logits[:-1][together.labels[0, 1:] >= 0]
    alone = []
    for question in puzzle.questions:
        single = collate([make_lesson(tokenizer, replace(puzzle, questions=(question,)))], pad_id=0)
        single_logits = model(input_ids=single.token_ids).logits[0]
        alone.append(single_logits[:-1][single.labels[0, 1:] >= 0])
    torch.testing.assert_close(branched, torch.cat(alone), rtol=0, atol=1e-4)


def test_only_replies_are_learned(tokenizer: Tokenizer) -> None:
    curriculum = Curriculum(num_list_batches=1, num_drill_batches=1, num_puzzle_batches=2)
    for batch in stream_batches(tokenizer, curriculum):
        learned = tokenizer.decode(batch.labels[0][batch.labels[0] >= 0])
        assert "<|im_start|>" not in learned
        assert "<|im_end|>" in learned


def test_the_same_recipe_writes_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curriculum = Curriculum(
        num_list_batches=2,
        num_drill_batches=1,
        num_puzzle_batches=3,
        drills_a_batch=4,
        puzzles_a_batch=2,
    )
    recipe = Recipe(curriculum=curriculum, num_tokenizer_puzzles=60, report_every_num_steps=2)
    for name in ("one", "two"):
        train(recipe, folder=tmp_path / name)
    assert "6/6" in capsys.readouterr().err
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        path.name for path in model_path().iterdir()
    } - {"README.md"}


def test_a_fresh_batch_of_the_stream_is_easy_for_the_shipped_model(tokenizer: Tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    curriculum = Curriculum(
        seed=7,
        num_list_batches=0,
        num_drill_batches=0,
        num_puzzle_batches=3,
        drill_share=0,
        hasty_share=0,
    )
    with torch.inference_mode():
        losses = [
            batch_loss(model, batch).item()
            for batch in islice(stream_batches(tokenizer, curriculum), 3)
        ]
    assert sum(losses) / len(losses) < 0.25
