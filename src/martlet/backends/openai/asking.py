"""A question to a server beside the run: patient with what passes, clear about what does not."""

import random
import time
from collections.abc import Mapping

import httpx

from martlet.backends.openai.address import ServerAddress
from martlet.backends.openai.pace import LONGEST_WAIT_S
from martlet.backends.openai.refusals import (
    MAX_NUM_ATTEMPTS,
    TransientError,
    backoff_s,
    faults_named,
    row_error_of,
    run_error_of,
)
from martlet.errors import UnavailableError


def ask_json(
    client: httpx.Client,
    url: str,
    *,
    address: ServerAddress,
    body: Mapping[str, object] | None = None,
) -> object:
    """What a server answers, as JSON; asked again while it is busy or breaks off.

    Args:
        client: Carries the key.
        url: What is asked.
        address: The server, for messages.
        body: Is posted; without one the answer is only fetched.

    Raises:
        UnavailableError: If nobody listens there, or every try failed.
        RequestRefusedError: If the server refuses this question.
        MartletError: If it refuses every question, as `run_error_of` says.
    """
    for number in range(1, MAX_NUM_ATTEMPTS + 1):
        try:
            return _once(client, url, address, body)
        except TransientError as error:
            if error.kind == "unreachable" or number == MAX_NUM_ATTEMPTS:
                raise UnavailableError(
                    f"no server answers at {url} ({error}); start it, or check the URL"
                ) from error
            asked = min(error.retry_after_s or 0.0, LONGEST_WAIT_S)
            time.sleep(max(asked, backoff_s(number, random.random())))
    raise AssertionError("the last try returned or raised")


def _once(
    client: httpx.Client, url: str, address: ServerAddress, body: Mapping[str, object] | None
) -> object:
    with faults_named():
        response = client.get(url) if body is None else client.post(url, json=body)
        status, content = response.status_code, response.content
        if status == 200:
            return response.json()
        fatal = run_error_of(status, content, address=address)
        raise fatal or row_error_of(status, response.headers, content, now=time.time())
