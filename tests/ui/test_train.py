"""From a file of rows to a conversation with what learned them: real browser, real training."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from martlet.demo.rows import training_rows
from ui.conftest import PHONE, Visit, Visitor, served

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytest.importorskip("gradio")
expect = pytest.importorskip("playwright.sync_api").expect
_A_TRAINING_MS = 60_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that tunes for administrators."""
    folder = tmp_path_factory.mktemp("tuning")
    options = ("--tuning-dir", folder / "jobs", "--data-dir", folder / "data")
    with served(*options, MARTLET_API_KEYS="use", MARTLET_ADMIN_KEYS="rule") as url:
        yield url


@pytest.fixture(scope="module")
def administrator(visit: Visit) -> Visitor:
    """Somebody at a desk who reads English, and keeps the page open from test to test."""
    visitor = visit(key="rule")
    visitor.turn_to("train")
    return visitor


def drop(visitor: Visitor, place: str, name: str, rows: list[dict[str, object]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = {"name": name, "mimeType": "application/jsonl", "buffer": content}
    visitor.page.locator(f"#{place} input[type=file]").set_input_files([file])


def number(visitor: Visitor, name: str) -> "Locator":
    return visitor.page.locator(f"#{name} input")


def test_rows_that_would_spoil_a_training_are_named(administrator: Visitor) -> None:
    page = administrator.page
    silent = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}
    drop(administrator, "train-rows", "bad.jsonl", [*islice(training_rows("turning"), 4), silent])
    stopping = page.locator(".findings tr.stops td")
    expect(stopping).to_have_text(["nothing to learn", "5", re.compile("replies are empty")])
    expect(page.locator("#train-start")).to_be_disabled()
    administrator.check_layout()
    page.locator("#train-rows button[aria-label]").last.click()
    expect(stopping).to_have_count(0)


def test_from_rows_to_a_conversation(administrator: Visitor) -> None:
    page = administrator.page
    rows = list(islice(training_rows("turning"), 24))
    drop(administrator, "train-rows", "turning.jsonl", rows[:16])
    drop(administrator, "train-validation", "dev.jsonl", rows[16:])
    expect(page.locator("#train-start")).to_be_enabled()
    number(administrator, "epochs").fill("2")
    number(administrator, "batch-size").fill("8")
    number(administrator, "rank").fill("4")
    page.locator("#suffix input, #suffix textarea").fill("turner")
    page.locator("#train-start").click()
    told = page.locator("#train-progress")
    told.locator("polyline.training").wait_for(timeout=_A_TRAINING_MS)
    administrator.check_layout()
    page.locator("#train-talk").wait_for(timeout=_A_TRAINING_MS)
    expect(told).to_contain_text("step 4 of 4")
    points = told.locator("polyline.training").get_attribute("points")
    assert points is not None
    assert len(points.split()) == 4
    expect(told.locator("path.validation")).to_have_count(2)
    name = told.locator("h3").inner_text().removesuffix(": done")
    assert re.fullmatch("ft:demo:martlet:turner:[0-9a-f]{8}", name)

    page.locator("#train-talk").click()
    expect(page.locator("#model input")).to_have_value(name)
    page.locator("#question textarea").fill("2 + 2 = ?")
    page.locator("#question textarea").press("Enter")
    expect(page.locator("#figures")).to_contain_text(name)
    administrator.turn_to("compare")
    page.locator("#compared input").click()
    expect(page.get_by_role("option", name=name)).to_be_visible()


@pytest.mark.usefixtures("administrator")
def test_a_job_is_cancelled_and_one_that_ended_is_shown_again(visit: Visit) -> None:
    visitor = visit(size=PHONE, language="zh-CN", key="rule")
    visitor.turn_to("train")
    page = visitor.page
    drop(visitor, "train-rows", "long.jsonl", list(islice(training_rows("turning"), 32)))
    page.locator("#train-start:enabled").click()
    page.locator("#train-cancel:enabled").click()
    heading = page.locator("#train-progress h3")
    expect(heading).to_have_text("long.jsonl: 已取消")
    jobs = page.locator("#train-jobs label")
    expect(jobs.first).to_have_text("long.jsonl · 已取消")
    jobs.last.click()
    expect(heading).to_contain_text("turner")
    expect(page.locator("#train-progress polyline.validation")).to_be_visible()
    visitor.check_layout()
    page.locator("#train-talk").click()
    expect(page.locator("#model input")).to_have_value(re.compile("^ft:demo:martlet:turner:"))


def test_nobody_else_may_train(visit: Visit) -> None:
    visitor = visit(key="use")
    visitor.turn_to("train")
    expect(visitor.page.locator("#train-missing")).to_contain_text("with the scope administer")
    expect(visitor.page.locator("#train-start")).to_have_count(0)
