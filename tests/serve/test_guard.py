"""Who may do what: keys and scopes, folders of adapters, the size of a body, origins."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from martlet.errors import ForbiddenError, InputError, NotFoundError, ParameterError
from martlet.serve.adapter_paths import allowed_folder, check_name
from martlet.serve.address import Address, bind
from martlet.serve.keys import ApiKeys
from martlet.serve.settings import ServeSettings
from serve.servers import Running, load_demo, serving

USE, ADMINISTER = "key-to-use", "key-to-administer"
ORIGIN = "https://friend.example"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    keys = ApiKeys(key_to_scope={USE: "use", ADMINISTER: "administer"})
    settings = ServeSettings(
        max_body_bytes=2**20,
        cors_origins=(ORIGIN,),
        adapter_dirs=(tmp_path_factory.mktemp("adapters"),),
    )
    with serving(load_demo(), keys=keys, settings=settings) as running:
        yield running


def get(server: Running, path: str, authorization: str | None = None) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return httpx.get(f"{server.url}{path}", headers=headers)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {USE}"])
def test_no_key_and_a_wrong_key_are_401(guarded: Running, authorization: str | None) -> None:
    for path in ("/v1/models", "/metrics", "/v1/adapters"):
        refused = get(guarded, path, authorization)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"


def test_a_key_does_what_its_scope_allows(guarded: Running) -> None:
    assert guarded.client(USE).models.list().data[0].id == "demo"
    assert get(guarded, "/metrics", f"Bearer {USE}").status_code == 200
    refused = get(guarded, "/v1/adapters", f"Bearer {USE}")
    assert refused.status_code == 403
    assert "scope 'administer'" in refused.json()["error"]["message"]
    assert get(guarded, "/v1/adapters", f"Bearer {ADMINISTER}").json()["data"] == []
    assert get(guarded, "/v1/models", f"Bearer {ADMINISTER}").status_code == 200


def test_health_needs_no_key(guarded: Running) -> None:
    for path in ("/health", "/ready", "/version"):
        assert get(guarded, path).status_code == 200


@pytest.mark.parametrize("num_mib", [2, 10])
def test_a_large_body_is_413(guarded: Running, num_mib: int) -> None:
    headers = {"Authorization": f"Bearer {USE}"}
    url = f"{guarded.url}/v1/chat/completions"
    body = b'{"model": "' + b"x" * (num_mib * 2**20) + b'"}'
    try:
        refused = httpx.post(url, content=body, headers=headers)
    except httpx.WriteError:
        # Far over the limit, nobody reads the body to its end, and the connection is closed.
        assert num_mib > 4
    else:
        assert refused.status_code == 413
        assert "larger than 1 MiB" in refused.json()["error"]["message"]


def test_only_named_origins_are_let_in(guarded: Running) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    url = f"{guarded.url}/v1/chat/completions"
    friend = httpx.options(url, headers={"Origin": ORIGIN, **asked})
    assert friend.headers["access-control-allow-origin"] == ORIGIN
    stranger = httpx.options(url, headers={"Origin": "https://stranger.example", **asked})
    assert "access-control-allow-origin" not in stranger.headers


def test_adapters_over_http_are_held_to_their_folder(guarded: Running) -> None:
    headers = {"Authorization": f"Bearer {ADMINISTER}"}

    def load(path: str, name: str = "poet") -> httpx.Response:
        body = {"name": name, "path": path}
        return httpx.post(f"{guarded.url}/v1/adapters", json=body, headers=headers)

    assert load("/etc").status_code == 403
    assert load("../../etc").status_code == 403
    assert load("absent").status_code == 404
    assert load("absent", name="demo").status_code == 400
    assert load("absent", name="a/b").status_code == 400
    gone = httpx.delete(f"{guarded.url}/v1/adapters/poet", headers=headers)
    assert gone.status_code == 404
    as_vllm = httpx.post(
        f"{guarded.url}/v1/load_lora_adapter",
        json={"lora_name": "poet", "lora_path": "/etc"},
        headers=headers,
    )
    assert as_vllm.status_code == 403


def test_links_do_not_lead_out_of_an_allowed_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "poet").mkdir(parents=True)
    (outside / "spy").mkdir(parents=True)
    (inside / "link").symlink_to(outside / "spy")
    assert allowed_folder("poet", [inside]) == inside / "poet"
    assert allowed_folder(str(inside / "poet"), [outside, inside]) == inside / "poet"
    for path in ("link", "../outside/spy", str(outside / "spy"), "/"):
        with pytest.raises(ForbiddenError, match="does not lie"):
            allowed_folder(path, [inside])
    with pytest.raises(NotFoundError, match="no folder nobody"):
        allowed_folder("nobody", [inside])
    with pytest.raises(ForbiddenError, match="--adapter-dir DIR"):
        allowed_folder("poet", [])
    with pytest.raises(ParameterError, match="name of the base"):
        check_name("demo", base_names=("demo",))


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# people\nfirst use\n\nsecond administer\n", encoding="utf-8")
    environment = {"MARTLET_API_KEYS": "third, fourth", "MARTLET_ADMIN_KEYS": "fifth"}
    keys = ApiKeys.read(path, environment)
    assert dict(keys.key_to_scope) == {
        "first": "use",
        "second": "administer",
        "third": "use",
        "fourth": "use",
        "fifth": "administer",
    }
    assert "first" not in repr(keys)
    assert not ApiKeys.read(None, {})
    path.write_text("first use\nsecret owner\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: a line is a key and a scope") as caught:
        ApiKeys.read(path, {})
    assert "secret" not in str(caught.value)
    with pytest.raises(NotFoundError):
        ApiKeys.read(tmp_path / "absent", {})


def test_an_address_that_cannot_be_had_is_one_clear_error(tmp_path: Path) -> None:
    with bind(Address(port=0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} is taken"):
            bind(Address(port=port))
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind(Address(host="192.0.2.1", port=0))
    with pytest.raises(ParameterError, match="0 to 65535"):
        Address(port=70_000)
    with pytest.raises(InputError, match="cannot be used"):
        bind(Address(port=0, ssl_certfile=tmp_path / "absent.pem"))
    assert Address().is_loopback
    assert not Address(host="0.0.0.0").is_loopback
