"""Requests that are made from our own OpenAPI document, none of which breaks the server."""

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings

from martlet.serve.settings import ServeSettings
from serve.servers import load_demo, serving

if TYPE_CHECKING:
    from schemathesis import APIOperation, Case


def test_no_request_that_our_document_allows_breaks_the_server() -> None:
    import schemathesis  # takes seconds, in each process that collects tests

    # Small, so that generated requests cannot ask for much.
    backend = load_demo(max_num_requests=4, max_context_tokens=48)
    with serving(backend, settings=ServeSettings(max_num_queued=4)) as running:
        document = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        operations = [found.ok() for found in document.get_all_operations()]
        assert len(operations) > 12
        statuses = {status for one in operations for status in _statuses_of(one)}
    assert {200, 400, 404} <= statuses


def _statuses_of(operation: "APIOperation") -> set[int]:
    """What an operation answers to generated requests; never an error of our own."""
    statuses = set()

    @given(case=operation.as_strategy())
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: "Case") -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "demo"
        reply = case.call()
        # Nobody is quick enough for every deadline that a request may set itself.
        is_late = reply.status_code == 504 and case.body.get("timeout", 600) < 60
        assert reply.status_code < 500 or is_late, reply.text
        if reply.status_code >= 400:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        statuses.add(reply.status_code)

    ask()
    return statuses
