"""Conversations of browsers: branches, rows, and that nobody finds another's."""

import json
from pathlib import Path

import pytest

from martlet.errors import NotFoundError

pytest.importorskip("gradio")

from martlet.ui.notebook import Notebook, Place
from martlet.ui.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "page.sqlite")


def contents(notebook: Notebook, place: Place) -> list[str]:
    return [turn.content for turn in notebook.tree(place).branch(place.leaf)]


def test_further_replies_and_edited_questions_are_branches(store: Store) -> None:
    notebook = Notebook(store, "mine")
    question = notebook.ask(Place(), "one?", "")
    first = notebook.keep_reply(question, "1", {})
    second = notebook.keep_reply(notebook.ask_again(first, 1, ""), "uno", {})
    edited = notebook.ask_otherwise(second, 0, "two?", "")
    third = notebook.keep_reply(edited, "2", {})
    assert contents(notebook, first) == ["one?", "1"]
    assert contents(notebook, second) == ["one?", "uno"]
    assert contents(notebook, third) == ["two?", "2"]
    assert notebook.tree(third).leaves() == [first.leaf, second.leaf, third.leaf]


def test_a_question_without_a_reply_is_replaced_by_the_next(store: Store) -> None:
    notebook = Notebook(store, "mine")
    unanswered = notebook.keep_reply(notebook.ask(Place(), "lost?", ""), "", {})
    place = notebook.ask(unanswered, "again?", "")
    assert contents(notebook, place) == ["again?"]
    assert notebook.rows(place) == ""


def test_rows_are_the_branch_that_is_shown_and_the_newest_of_the_others(store: Store) -> None:
    notebook = Notebook(store, "mine")
    first = notebook.keep_reply(notebook.ask(Place(), "a?", "Be kind."), "1", {})
    notebook.keep_reply(notebook.ask_again(first, 0, "Be kind."), "2", {})
    other = notebook.keep_reply(notebook.ask(Place(), "b?", ""), "3", {})
    notebook.keep_reply(notebook.ask_again(other, 0, ""), "4", {})
    rows = [json.loads(line)["messages"] for line in notebook.rows(first).splitlines()]
    assert [[message["content"] for message in row] for row in rows] == [
        ["b?", "4"],
        ["Be kind.", "a?", "1"],
    ]


def test_another_browser_finds_nothing(store: Store) -> None:
    mine, foreign = Notebook(store, "mine"), Notebook(store, "foreign")
    place = mine.keep_reply(mine.ask(Place(), "secret?", ""), "yes", {})
    assert foreign.conversations() == []
    assert foreign.rows(place) == ""
    assert place.conversation is not None
    for intrude in (
        lambda: foreign.open(place.conversation),
        lambda: foreign.tree(place),
        lambda: foreign.ask(place, "more?", ""),
        lambda: foreign.keep_reply(place, "no", {}),
        lambda: foreign.forget(place),
    ):
        with pytest.raises(NotFoundError):
            intrude()
    assert contents(mine, place) == ["secret?", "yes"]
    with pytest.raises(NotFoundError, match="no id yet"):
        Notebook(store, "").ask(Place(), "whose?", "")


def test_what_is_forgotten_is_gone_and_the_rest_outlives_the_server(
    store: Store, tmp_path: Path
) -> None:
    notebook = Notebook(store, "mine")
    kept = notebook.keep_reply(notebook.ask(Place(), "kept?", ""), "yes", {"num_tokens": 1})
    notebook.forget(notebook.ask(Place(), "gone?", ""))
    store.close()
    path = tmp_path / "data" / "page.sqlite"
    again = Notebook(Store(path), "mine")
    assert [each.title for each in again.conversations()] == ["kept?"]
    assert again.tree(kept).branch(kept.leaf)[-1].facts == {"num_tokens": 1}
    assert path.stat().st_mode & 0o077 == 0
