"""Files over HTTP: forms as clients send them, and forms that nobody should."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from martlet.serve.settings import ServeSettings, default_data_dir
from serve.servers import Running, load_demo, serving
from serve.test_conformance import check
from support.shared import needs_shared

CONTENT = b'{"custom_id": "a"}\n'
FORM = {"purpose": "batch"}
FILE_PART = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server that takes files of at most 100,000 bytes."""
    with serving(load_demo(), settings=ServeSettings(max_file_bytes=100_000)) as running:
        yield running


def kept(server: Running) -> list[Path]:
    return list((server.service.settings.data_dir / "files").glob("*"))


def test_a_file_comes_back_as_it_was(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 4_000
    file = client.files.create(file=("小 file.jsonl", content), purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("小 file.jsonl", 1_024_000, "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert client.files.delete(file.id).deleted
    for missing in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            missing(file.id)


@needs_shared
def test_lists_go_page_by_page(small: Running) -> None:
    client = small.client()
    names = [client.files.create(file=CONTENT, purpose="batch").id for _ in range(3)]
    assert [file.id for file in client.files.list(limit=2)] == names[::-1]
    assert [file.id for file in client.files.list(order="asc", after=names[0])] == names[1:]
    assert client.files.list(purpose="batch_output").data == []
    with small.http() as http:
        check(http.get("/v1/files", params={"limit": 2}).json(), "ListFilesResponse")
        check(http.get(f"/v1/files/{names[0]}").json(), "OpenAIFile")
        check(http.delete(f"/v1/files/{names[0]}").json(), "DeleteFileResponse")


def test_a_file_over_the_limit_is_refused_and_not_kept(small: Running) -> None:
    before = kept(small)
    with small.http() as http:
        reply = http.post("/v1/files", data=FORM, files={"file": b"x" * 200_000})
    assert reply.status_code == 413
    assert "--max-file-mb" in reply.json()["error"]["message"]
    assert kept(small) == before


@pytest.mark.parametrize(
    ("fields", "files", "sentence"),
    [
        ({}, {"file": CONTENT}, "purpose must be 'batch' or 'fine-tune', not None"),
        ({"purpose": "vision"}, {"file": CONTENT}, "not 'vision'"),
        ({**FORM, "colour": "red"}, {"file": CONTENT}, "unknown field 'colour'"),
        ({**FORM, "expires_after[anchor]": "created_at"}, {"file": CONTENT}, "expires_after"),
        ({**FORM, "colour": "r" * 5_000}, {"file": CONTENT}, "longer than 1024 bytes"),
        (FORM, {"file": b""}, "the file is empty"),
        (FORM, {"other": CONTENT}, "one file, in the field 'file'"),
    ],
)
def test_forms_that_are_wrong(
    small: Running, fields: dict[str, str], files: dict[str, bytes], sentence: str
) -> None:
    before = kept(small)
    with small.http() as http:
        reply = http.post("/v1/files", data=fields, files=files)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]
    assert kept(small) == before


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data"}, b"--b--"),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 500}, b"--b--"),
        (MULTIPART, b""),
        (MULTIPART, b"no boundary"),
        (MULTIPART, b"--b\r\n\r\nnameless\r\n--b--\r\n"),
        (
            MULTIPART,
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
        ),
        (MULTIPART, b"--b\r\n" + b"X" * 20_000 + b": y\r\n\r\n\r\n--b--\r\n"),
    ],
)
def test_what_is_no_form(small: Running, headers: dict[str, str], content: bytes) -> None:
    before = kept(small)
    with small.http() as http:
        reply = http.post("/v1/files", headers=headers, content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]
    assert kept(small) == before


def test_no_path_leads_out_of_the_folder(http: httpx.Client) -> None:
    for name in ("..%2Fmartlet.sqlite", "%2Fetc%2Fpasswd", ".."):
        assert http.get(f"/v1/files/{name}/content").status_code == 404


def test_the_folder_is_where_the_standard_says(tmp_path: Path) -> None:
    assert default_data_dir({"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "martlet"
    for environment in ({}, {"XDG_DATA_HOME": ""}, {"XDG_DATA_HOME": "relative"}):
        assert default_data_dir(environment) == Path.home() / ".local/share/martlet"
