"""Where the server wants a key, the page asks for it first, and lends nobody another's rights."""

import re

import httpx
import pytest

from ui.conftest import served

pytest.importorskip("gradio")


def test_nobody_gets_in_without_a_key() -> None:
    with (
        served(MARTLET_API_KEYS="use/it;now", MARTLET_ADMIN_KEYS="rule") as url,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        closed = http.get("/ui/zh/", headers={"Accept-Language": "zh-CN"})
        assert closed.status_code == 401
        assert "API 密钥" in closed.text
        file = {"files": ("a.txt", b"much")}
        assert http.post("/ui/en/gradio_api/upload", files=file).status_code == 401
        assert http.get("/ui/en/config").status_code == 401

        wrong = http.post("/ui/key", data={"key": "guess"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        entered = http.post("/ui/key", data={"key": "use/it;now"})
        assert entered.status_code == 303
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "SameSite=strict" in entered.headers["set-cookie"]
        page = http.get("/ui/en/")
        assert page.status_code == 200
        assert "rule" not in re.findall(r"\w+", page.text)
        assert http.post("/ui/en/gradio_api/upload", files=file).status_code == 200
        # The API itself takes no cookies: another site's page cannot use the visitor's key.
        assert http.get("/v1/models").status_code == 401
