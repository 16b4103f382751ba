"""The page as a person uses it: a real browser, the embedded model, real clicks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from martlet.batch.shapes import Wording
from martlet.demo import puzzles_path
from martlet.train.example import Origin
from martlet.train.formats.preferences import preference_of
from martlet.ui.languages import words_of
from martlet.ui.question import question_prompt
from ui.conftest import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Locator

expect = pytest.importorskip("playwright.sync_api").expect
TABS = ("chat", "compare", "vote", "batch", "train", "microscope")
PUZZLES = list(map(json.loads, puzzles_path().read_text(encoding="utf-8").splitlines()[:2]))
PUZZLE = PUZZLES[0]
QUESTION = f"{PUZZLE['problem']}{PUZZLE['questions'][0]['question']}"
OPTIONS = PUZZLE["questions"][0]["options"]


def ask(visitor: Visitor, text: str) -> None:
    """Asks in the chat, and waits until the reply is whole."""
    num_before = len(said(visitor))
    box = visitor.page.locator("#question textarea")
    box.fill(text)
    box.press("Enter")
    expect(bubbles(visitor)).to_have_count(num_before + 2)
    visitor.page.locator("#question .submit-button").wait_for()


def bubbles(visitor: Visitor) -> "Locator":
    return visitor.page.locator("#conversation .message-content")


def said(visitor: Visitor) -> list[str]:
    """What stands in the bubbles of the chat."""
    return [text.strip() for text in bubbles(visitor).all_inner_texts()]


def test_a_conversation_with_branches(visitor: Visitor) -> None:
    page = visitor.page
    ask(visitor, "2 + 2 = ?")
    ask(visitor, QUESTION)
    first = said(visitor)
    assert first[0] == "2 + 2 = ?"
    assert len(first) == 4
    expect(page.locator("#figures .context")).to_be_visible()
    figures = page.locator("#figures").inner_text()
    assert "512" in figures
    assert ("首个词元" if visitor.is_chinese else "first after") in figures
    visitor.check_layout()

    page.locator(".message-buttons-left button").last.click()  # draws it anew
    expect(page.locator(".branches label")).to_have_text(["1", "2"])
    page.locator(".branches label").first.click()
    expect(bubbles(visitor).last).to_have_text(first[-1], use_inner_text=True)
    assert said(visitor) == first

    page.reload()
    page.locator(".list label").first.click()
    expect(bubbles(visitor)).to_have_count(4)


def test_a_question_is_edited_and_rows_are_taken_home(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.turn_to("chat")
    page.locator("#new").click()
    expect(bubbles(visitor)).to_have_count(0)
    page.locator("#system textarea").fill("Be brief.")
    ask(visitor, "1 + 1 = ?")
    page.locator(".message-buttons-right button").last.click()
    page.locator("#conversation textarea").fill("3 + 3 = ?")
    page.locator(".message-buttons-right button").first.click()
    expect(page.locator(".branches label")).to_have_text(["1", "2"])
    assert said(visitor)[0] == "3 + 3 = ?"
    with page.expect_download() as download:
        page.locator("#download-rows").click()
    download.value.save_as(tmp_path / "rows.jsonl")
    line, *_ = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    messages = json.loads(line)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == "Be brief."
    assert messages[1]["content"] == "3 + 3 = ?"


def test_a_conversation_is_deleted_if_that_is_meant(visitor: Visitor) -> None:
    page = visitor.page
    visitor.turn_to("chat")
    page.locator("#new").click()
    expect(page.locator("#forget")).to_be_disabled()
    page.locator("#conversation .example").click()
    box, words = page.locator("#question textarea"), words_of(visitor.language)
    options = words["example_options"].splitlines()
    expect(box).to_have_value(question_prompt(words["example_question"], options))
    box.press("Enter")
    expect(page.locator("#forget")).to_be_enabled()
    page.locator("#question .submit-button").wait_for()
    kept = page.locator(".list label").all_inner_texts()
    with page.expect_event("dialog") as asked:
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.locator("#forget").click()
    assert asked.value.message == words["confirm_forget"]
    expect(bubbles(visitor)).to_have_count(2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#forget").click()
    expect(bubbles(visitor)).to_have_count(0)
    assert page.locator(".list label").all_inner_texts() == kept[1:]


def test_the_better_reply_becomes_a_training_row(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.turn_to("compare")
    box = page.locator("#compare-prompt textarea")
    box.fill(QUESTION)
    box.press("Enter")
    better = page.locator(".contestant button:visible")
    better.first.wait_for()
    headings = page.locator(".contestant h3").all_inner_texts()
    assert headings == ["demo", "judge"]
    visitor.check_layout()
    better.last.click()
    expect(better.last).to_be_disabled()
    better.first.click()  # on second thoughts
    expect(better.first).to_be_disabled()
    expect(better.last).to_be_enabled()
    with page.expect_download() as download:
        page.locator("#download-preferences").click()
    download.value.save_as(tmp_path / "preferences.jsonl")
    row = json.loads((tmp_path / "preferences.jsonl").read_text(encoding="utf-8"))
    origin = Origin(path="preferences.jsonl", row=1)
    preference = preference_of(row, origin, Wording())
    texts = page.locator(".contestant .text").all_inner_texts()
    assert [preference.chosen[0]["content"], preference.rejected[0]["content"]] == texts
    assert preference.messages == ({"role": "user", "content": QUESTION},)


def test_a_vote_stops_early_and_shows_its_samples(visitor: Visitor) -> None:
    page = visitor.page
    visitor.turn_to("vote")
    question, options = (page.locator(f"#vote-{part} textarea") for part in ("question", "options"))
    page.locator("button.example:visible").click()
    for filled in (question, options):
        expect(filled).not_to_have_value("")
    question.fill(QUESTION)
    options.fill("\n".join(OPTIONS))
    visitor.unfold("vote-sampling")
    temperature = page.locator("#vote-sampling input[type=number]").first
    expect(temperature).not_to_have_value("0")  # what the server says comes after the slider
    temperature.fill("0")  # all samples agree
    temperature.press("Tab")
    expect(page.locator("#vote-sampling input[type=range]").first).to_have_value("0")
    page.locator("#vote-ask").click()
    told = "不再需要" if visitor.is_chinese else "were not needed"
    expect(page.locator(".bars p")).to_contain_text(told)
    page.locator(".bar.winner").wait_for()
    counts = [int(count) for count in page.locator(".bar .count").all_inner_texts()]
    assert sorted(counts) == [0, 0, 0, page.locator(".samples details").count()]
    assert max(counts) == 4  # of 8: the first four outvote whatever comes
    assert page.locator(".bar .label").all_inner_texts()[:4] == [
        f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)
    ]
    sample = page.locator(".samples details").first
    sample.locator("summary").click()
    expect(sample.locator(".text")).to_be_visible()
    visitor.check_layout()


def test_a_file_becomes_answers_and_a_report(
    visitor: Visitor, questions: Path, tmp_path: Path
) -> None:
    page = visitor.page
    visitor.turn_to("batch")
    page.locator("#batch-file input[type=file]").set_input_files(questions)
    page.locator("#batch-file .file-preview").wait_for()
    page.locator("#batch-start").click()
    links = page.locator("#batch-results a")
    expect(links).to_have_count(2)
    contents = []
    for number in range(2):
        with page.expect_download() as download:
            links.nth(number).click()
        download.value.save_as(tmp_path / str(number))
        contents.append((tmp_path / str(number)).read_text(encoding="utf-8"))
    answers, report = contents
    ids = [json.loads(line)["custom_id"] for line in answers.splitlines()]
    assert ids == [
        f"{row['id']}/{index}" for row in PUZZLES for index in range(len(row["questions"]))
    ]
    assert f"| {len(ids)} |" in report
    visitor.check_layout()


def test_each_step_of_a_reply_can_be_looked_at(visitor: Visitor) -> None:
    page = visitor.page
    visitor.turn_to("microscope")
    box = page.locator("#microscope-prompt textarea")
    box.fill(QUESTION)
    box.press("Enter")
    page.locator("#step").wait_for()
    tokens = page.locator(".ribbon .token").all_inner_texts()
    drawn = page.locator("tr.drawn code")
    assert drawn.inner_text() == tokens[0]
    page.locator("#step input[type=number]").fill("2")
    page.locator("#step input[type=number]").press("Tab")
    expect(drawn).to_have_text(tokens[1])
    page.locator(".ribbon .token").last.click()
    expect(drawn).to_have_text(tokens[-1])
    visitor.check_layout()


def test_where_nothing_is_tuned_the_page_says_so(visitor: Visitor) -> None:
    visitor.turn_to("train")
    missing = visitor.page.locator("#train-missing")
    expect(missing).to_contain_text("启动时请加上" if visitor.is_chinese else "start the server")
    expect(missing).to_contain_text("--tuning-dir DIR")
    expect(visitor.page.locator("#train-start")).to_have_count(0)


def test_every_tab_fits_in_the_other_language_and_dark_stays_dark(visitor: Visitor) -> None:
    page = visitor.page
    page.locator("#theme").click()
    page.locator("#other-language").click()
    visitor.is_chinese = not visitor.is_chinese
    expect(page.get_by_role("tab").first).to_have_text("对话" if visitor.is_chinese else "Chat")
    page.wait_for_function("document.body.classList.contains('dark')")
    for tab in TABS:
        visitor.turn_to(tab)
        visitor.check_layout()
    page.locator("button.example:visible").click()
    expect(page.locator("#microscope-prompt textarea")).not_to_have_value("")
    page.locator("#microscope-prompt .submit-button").click()
    page.locator("#step").wait_for()
    visitor.check_layout()
