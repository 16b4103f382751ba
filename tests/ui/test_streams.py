"""Replies that are stopped or left while they stream, and others that stream beside them."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import httpx
import pytest

from ui.conftest import Visit, Visitor
from ui.test_page import QUESTION, ask, bubbles, said

expect = pytest.importorskip("playwright.sync_api").expect


def test_another_conversation_is_not_disturbed_by_the_one_that_was_left(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    make_replies_endless(visitor)
    box = page.locator("#question textarea")
    box.fill(QUESTION)
    page.evaluate(_PRESS_AT_ONCE, "#new")
    box.press("Enter")
    left = page.locator(".list label")
    left.wait_for()
    expect(bubbles(visitor)).to_have_count(0)
    page.locator("#question .submit-button").wait_for()
    left.click()
    expect(bubbles(visitor)).to_have_count(2)
    expect(page.locator("#figures")).to_contain_text("stopped")
    page.locator(".message-buttons-left button").last.click()  # draws it anew
    page.locator("#question .stop-button").wait_for()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#forget").click()
    expect(bubbles(visitor)).to_have_count(0)
    page.wait_for_timeout(500)  # nothing of it comes back
    expect(bubbles(visitor)).to_have_count(0)
    expect(left).to_have_count(0)


def make_replies_endless(visitor: Visitor) -> None:
    """Rewards every repetition: what was said once is said until the context is full."""
    visitor.unfold("chat-sampling")
    numbers = visitor.page.locator("#chat-sampling input[type=number]")
    for slider, value in ((numbers.first, "0"), (numbers.last, "-2")):
        expect(slider).not_to_have_value(value)  # what the server says comes after the slider
        slider.fill(value)
        slider.press("Tab")


def test_a_reply_is_stopped_while_32_clients_stream(visit: Visit, server: str) -> None:
    visitor = visit()
    page, all_stream, is_over = visitor.page, Barrier(33), Event()
    make_replies_endless(visitor)
    with ThreadPoolExecutor(32) as clients:
        streams = [clients.submit(stream, server, all_stream, is_over) for _ in range(32)]
        try:
            all_stream.wait(timeout=60)
            page.evaluate(_PRESS_AT_ONCE, "#question .stop-button")
            ask(visitor, QUESTION)
            expect(page.locator("#figures")).to_contain_text("stopped")
        finally:
            is_over.set()
    assert all(each.result() == {"length"} for each in streams)
    question, kept = said(visitor)
    page.reload()
    page.locator(".list label").first.click()
    expect(bubbles(visitor)).to_have_text([question, kept], use_inner_text=True)
    stranger = visit()
    assert stranger.page.locator(".list label").count() == 0


_PRESS_AT_ONCE = """(selector) => new MutationObserver((_, observer) => {
  const button = document.querySelector(selector);
  const reply = document.querySelectorAll("#conversation .message-content")[1];
  const said = reply?.innerText.trim().replace("…", "");  // which stands there before a word does
  if (!button || !said || !document.querySelector("#figures .figures")) return;
  observer.disconnect();
  button.click();
}).observe(document.body, { childList: true, subtree: true, characterData: true })"""
"""Presses a button when the first words are there, faster than a person could."""


def stream(server: str, all_stream: Barrier, is_over: Event) -> set[str]:
    """Draws one long reply after the other as any client would, and says why they ended."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
    }
    url, reasons = f"{server}/v1/chat/completions", set[str]()
    while not is_over.is_set():
        with httpx.stream("POST", url, json=body, timeout=120) as response:
            chunks = (line for line in response.iter_lines() if line.startswith("data: {"))
            next(chunks)
            if not reasons:
                all_stream.wait(timeout=60)
            *_, last = chunks
        reasons.add(json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"])
    return reasons
