"""Takes the pictures of docs/ui.md from the real page.

In tests/: `python -m ui.screenshots ../docs/images`. Replies are drawn with a seed, so that the
same model says the same in the picture.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from martlet.ui.languages import words_of
from ui.conftest import CHROMIUM, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

_WORDS = words_of("en")
_SIZE = {"width": 1280, "height": 860}


def _ask_the_example(page: "Page", box: str) -> None:
    settings = page.get_by_role("button", name=_WORDS["sampling"]).locator("visible=true")
    settings.click()
    page.get_by_label(_WORDS["seed"], exact=True).locator("visible=true").fill("1")
    settings.click()
    page.get_by_role("button", name=_WORDS["example"]).locator("visible=true").click()
    page.wait_for_function(f"document.querySelector('{box}').value")
    page.locator(box).press("Enter")


def _chat(page: "Page") -> None:
    _ask_the_example(page, "#question textarea")
    page.locator("#figures .context").wait_for()
    page.locator("#question .submit-button").wait_for()


def _microscope(page: "Page") -> None:
    page.get_by_role("tab", name=_WORDS["microscope"]).click()
    _ask_the_example(page, "#microscope-prompt textarea")
    page.locator("#step").wait_for()


_NAME_TO_SCENE: Mapping[str, Callable[["Page"], None]] = {"chat": _chat, "microscope": _microscope}


def take(folder: Path) -> None:
    """Writes a picture of each scene.

    Args:
        folder: Where they go; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory() as data,
        served("--data-dir", data) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, play in _NAME_TO_SCENE.items():
            page = browser.new_page(viewport=_SIZE, locale="en-US")
            page.goto(f"{url}/ui")
            page.wait_for_function("document.querySelector('#model input')?.value")
            play(page)
            page.locator("h1").click()  # no cursor blinks in the picture
            page.screenshot(path=folder / f"page-{name}.png")
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
