"""A real server with its page, and a real browser in front of it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from martlet.demo import model_path
from martlet.models.folder import open_folder
from martlet.ui.languages import words_of
from support.adapters import make_adapter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP, PHONE = (1280, 800), (390, 844)
_PATIENCE_MS = 30_000
_TELL_ERRORS = """new MutationObserver(() => {
  for (const shown of document.querySelectorAll(".toast-body.error:not([data-told])")) {
    shown.dataset.told = "";
    console.error(shown.innerText);
  }
}).observe(document, { childList: true, subtree: true })"""
"""An error that the page shows in passing is told on the console too."""


@contextmanager
def served(*options: object, **environment: str) -> Iterator[str]:
    """A process that serves the embedded model and its page, and its URL."""
    given = ["--demo", "--ui", "--port", 0, "--dtype", "fp32", "--kv-memory", 0.05, *options]
    given += ["--drain-seconds", 0]
    given.append("--no-speculation")  # A reply without end would be at its end in a moment.
    scratch = TemporaryDirectory()
    process = subprocess.Popen(
        [sys.executable, "-m", "martlet.cli.main", "serve", *map(str, given)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": scratch.name, **environment},
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"the page is at (http://\S+)/ui", line):
                break
        else:
            pytest.fail("".join(lines))
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)
        left = list(Path(scratch.name).glob("martlet-page-*"))
        scratch.cleanup()
    assert left == []


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all browsers: the embedded model and an adapter of it."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("page")
    judge = make_adapter(
        folder / "judge", open_folder(model_path()), r=4, target_modules="all-linear"
    )
    with served("--adapter", f"judge={judge}", "--data-dir", folder / "data") as url:
        yield url


@pytest.fixture(scope="module")  # its event loop would be in the way of other modules
def browser() -> "Iterator[Browser]":
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        playwright.expect.set_options(timeout=_PATIENCE_MS)
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody with a browser of their own, and all that went wrong in it."""

    page: "Page"
    is_chinese: bool
    faults: list[str] = field(default_factory=list)

    @property
    def language(self) -> str:
        """Of the page, as `words` calls it."""
        return "zh" if self.is_chinese else "en"

    def note_console(self, message: "ConsoleMessage") -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def note_request(self, request: "Request") -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.faults.append(f"asks the internet: {request.url}")

    def turn_to(self, tab: str) -> None:
        """Opens a tab by its name in `words`; on a phone the last ones are behind a menu."""
        name = words_of(self.language)[tab]
        button = self.page.get_by_role("tab", name=name, exact=True)
        if not button.is_visible():
            self.page.locator(".overflow-menu > button").click()
            button = self.page.locator(".overflow-dropdown button", has_text=name)
        button.click()

    def unfold(self, part: str) -> None:
        """Opens what is folded, by its id; in the frame after it Gradio sets its values again."""
        self.page.locator(f"#{part} > button").click()
        self.page.locator(f"#{part} input").first.wait_for()
        self.page.evaluate("new Promise((done) => requestAnimationFrame(done))")

    def check_layout(self) -> None:
        """Nothing is wider than the window, and no text is cut off by its box."""
        clipped = self.page.evaluate(
            """() => [...document.querySelectorAll("button, label > span, h1, h3, p, td, th")]
              .filter((e) => e.offsetParent && e.clientWidth > 1 && !e.closest(".list"))
              .filter((e) => getComputedStyle(e).overflowX !== "visible")
              .filter((e) => e.scrollWidth > e.clientWidth + 1)
              .map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert clipped == []
        hidden = """() => [...document.querySelectorAll(".wide")]
          .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerText)"""
        assert self.page.evaluate(hidden) == []
        widths = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]


Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def visit(browser: "Browser", server: str) -> Iterator[Visit]:
    """Opens the page in a browser that nobody used before; nothing may go wrong in it."""
    visitors: list[Visitor] = []

    def open_page(
        *, size: tuple[int, int] = DESKTOP, language: str = "en-US", key: str | None = None
    ) -> Visitor:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, locale=language
        )
        if key is not None:
            cookie = f"martlet_key_{urlsplit(server).port}"
            context.add_cookies([{"name": cookie, "value": key, "url": server}])
        visitor = Visitor(page=context.new_page(), is_chinese=language.startswith("zh"))
        visitor.page.set_default_timeout(_PATIENCE_MS)
        visitor.page.on("console", visitor.note_console)
        visitor.page.on("pageerror", lambda error: visitor.faults.append(str(error)))
        visitor.page.on("request", visitor.note_request)
        visitor.page.add_init_script(_TELL_ERRORS)
        visitor.page.goto(f"{server}/ui")
        # The sliders stand where the server says once everything is loaded.
        visitor.page.locator("#model input").first.wait_for()
        visitor.page.wait_for_function("document.querySelector('#model input')?.value")
        visitors.append(visitor)
        return visitor

    yield open_page
    for visitor in visitors:
        visitor.page.context.close()
    assert [fault for visitor in visitors for fault in visitor.faults] == []


@pytest.fixture(
    scope="module",
    params=[(DESKTOP, "en-US"), (PHONE, "zh-CN")],
    ids=["desktop-en", "phone-zh"],
)
def visitor(visit: Visit, request: pytest.FixtureRequest) -> Visitor:
    """Somebody at a desk who reads English, and somebody with a phone who reads Chinese.

    They keep the page open from test to test.
    """
    size, language = request.param
    return visit(size=size, language=language)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file with the first two of the embedded puzzles."""
    from martlet.demo import puzzles_path

    lines = puzzles_path().read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(lines[:2]), encoding="utf-8")
    return path
