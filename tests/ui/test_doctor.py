"""What the page says of training rows and of a job, without a browser."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from martlet.train.doctor import Finding
from martlet.train.example import Origin
from martlet.ui.course import Course, told
from martlet.ui.doctor import Checkup, Doctor
from martlet.ui.findings import findings
from martlet.ui.languages import words_of


def row(question: str, reply: str) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": turns}


def checkup_of(tmp_path: Path, *rows: dict[str, object], validation: int = 0) -> Checkup:
    """What is found in rows, of which the first are validation rows too."""
    paths = []
    for name, taken in (("rows", rows), ("dev", rows[:validation])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in taken), encoding="utf-8")
        paths.append(path)
    doctor = Doctor("demo", chat_template=None)
    return doctor.examine(paths[0], paths[1] if validation else None)


def test_every_finding_is_told_in_the_language_of_the_page(tmp_path: Path) -> None:
    checkup = checkup_of(
        tmp_path,
        *(row(f"{number}?", "yes") for number in range(12)),
        {"unknown": 1},
        row("a", ""),
        row("b", "c " * 600),
        row("0?", "no"),
        row("1?", "yes"),
        row("d", "<|im_end|> {{name}}"),
        validation=10,
    )
    html = findings(words_of("zh"), checkup)
    cells = re.findall("<td>(.*?)</td>", html)
    assert len(cells) == 3 * 8  # all kinds that the embedded model's template lets happen
    for said in (*cells[0::3], *cells[2::3]):
        assert re.search("[\u4e00-\u9fff]", said), said
    assert "验证: 1, 2, 3, 4, 5, 6, 7, 8, … (10)" in cells
    assert html.count('class="stops"') == 1 + sum(each.stops for each in checkup.diagnosis.findings)


def test_a_finding_without_words_speaks_for_itself(tmp_path: Path) -> None:
    checkup = checkup_of(tmp_path, row("a", "b"))
    assert "<table>" not in findings(words_of("en"), checkup)
    place = Origin(path="rows.jsonl", row=1)
    finding = Finding(kind="too blue", stops=True, origins=(place,), advice="paint it")
    diagnosis = replace(checkup.diagnosis, findings=(finding,))
    html = findings(words_of("zh"), replace(checkup, diagnosis=diagnosis))
    assert "too blue" in html
    assert "paint it" in html


def test_pairs_are_known_as_such(tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert checkup_of(tmp_path, pair).has_preferences
    assert not checkup_of(tmp_path, row("a", "b")).has_preferences


def event(number: int, **data: float) -> dict[str, object]:
    kind = "metrics" if data else "message"
    return {"id": f"e{number}", "type": kind, "message": "<it begins>", "data": data}


def test_a_step_that_was_done_twice_is_drawn_once() -> None:
    course = Course()
    course.add([event(0), event(1, step=1, total_steps=2000, train_loss=4.0)])
    again = [event(2, step=step, total_steps=2000, train_loss=2.0) for step in range(1, 1001)]
    course.add([*again, event(3, step=1000, total_steps=2000, valid_loss=1.0)])
    assert (course.training[1], course.last_event) == (2.0, "e3")
    job = {
        "id": "ftjob-1",
        "status": "running",
        "error": None,
        "fine_tuned_model": None,
        "metadata": None,
        "estimated_finish": 0,
    }
    html = told(words_of("en"), job, course)
    assert "step 1,000 of 2,000 · 0:00 left" in html
    assert "width:50.0%" in html
    assert "&lt;it begins&gt;" in html
    (points,) = re.findall('polyline class="training" points="(.*?)"', html)
    assert 300 < len(points.split()) < 401
    assert points.endswith("50.00,4.00")  # the newest, at the highest loss
