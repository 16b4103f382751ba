"""A quick start leaves later garbage to be found, a quick end leaves nothing undone."""

import gc
import os
import subprocess
import sys
import weakref

import pytest

from martlet.cli.quick import keep_what_there_is, without_collections


class Ring:
    """Refers to itself, so that only a collection finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


def test_what_there_is_stays_and_garbage_made_later_goes() -> None:
    with without_collections():
        early = weakref.ref(Ring())
        keep_what_there_is()
        late = weakref.ref(Ring())
        assert not gc.isenabled()
    gc.collect()
    assert gc.isenabled()
    assert early() is not None
    assert late() is None


LEAVING = """
import atexit, sys, threading, time

from martlet.cli.quick import keep_what_there_is, leaving_at_once

def later():
    time.sleep(0.2)
    print("thread")

atexit.register(print, "the", "usual", "way")
with leaving_at_once():
    atexit.register(print, "told")
    threading.Thread(target=later).start()
    {program}
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("keep_what_there_is(); sys.exit(3)", 3, "thread told"),
        ("keep_what_there_is(); sys.exit()", 0, "thread told"),
        ("keep_what_there_is(); raise ValueError", 1, "thread told the usual way"),
        ("keep_what_there_is(); sys.exit('why')", 1, "thread told the usual way"),
        ("sys.exit(3)", 3, "thread told the usual way"),
    ],
)
def test_a_program_with_a_model_leaves_at_once_when_all_is_done(
    program: str, code: int, said: str
) -> None:
    command = [sys.executable, "-c", LEAVING.format(program=program)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    left = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert left.returncode == code
    assert left.stdout.split() == said.split()
