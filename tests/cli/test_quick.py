"""What makes a start quick leaves later garbage to be found."""

import gc
import weakref

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
