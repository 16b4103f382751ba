"""The adapters of one model: loaded, replaced, pinned, dropped and listed while requests run.

Reading and checking (`prepare`) may happen on any thread; all else belongs to the engine's, between
two steps. A request holds the revision that it began with, which lives until its last holder ends.
"""

import logging
import os
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from martlet.errors import BusyError, NotFoundError, ParameterError, ResourceError
from martlet.lora import prepare as preparing
from martlet.lora.adapted_layers import AdaptedLayers
from martlet.lora.folder import open_adapter
from martlet.lora.proof import BaseProbe, prove
from martlet.lora.provenance import (
    ServingIdentity,
    check_provenance,
    difference_in_serving,
)
from martlet.lora.revision import AdapterRevision
from martlet.lora.step import AdapterStep
from martlet.models.load import LoadedModel

logger = logging.getLogger(__name__)

LOW_PRIORITY = 10
"""The niceness of reading: a load takes longer under load, and running requests hardly notice."""
RETRY_AFTER_S = 5
"""Seconds that a caller is told to wait for a place in memory."""


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What is known of an adapter."""

    name: str
    path: Path
    revision: str
    """16 hexadecimal digits: a hash of config and weights."""
    ranks: tuple[int, ...]
    num_tensors: int
    """Tensors that landed on a module."""
    num_tensors_expected: int
    probe_kl: float
    """Mean KL(base || adapter) over the positions of the probe's prompt, in nats."""
    size_bytes: int
    is_pinned: bool
    """Whether it stays in memory whatever else is loaded."""
    is_loaded: bool
    """Whether it is in memory; if not, its folder is read again when it is next used."""
    num_requests: int
    """Requests that run with this revision or an earlier one of the name."""

    @property
    def proof(self) -> str:
        """What loading showed, in words."""
        tensors = f"{self.num_tensors}/{self.num_tensors_expected}"
        return f"tensors {tensors}, probe KL {self.probe_kl:.2g}"


@dataclass(kw_only=True)
class _Entry:
    """A name and its newest revision."""

    revision: AdapterRevision
    probe_kl: float
    is_pinned: bool = False
    is_loaded: bool = True


class AdapterStore:
    """Keeps adapters by name and puts their layers into the model.

    Args:
        model: The base, which one store has at a time. A leaf is wrapped when the first adapter
            touches it.
        max_loaded: Adapters kept in memory. Revisions that were replaced or dropped come on top of
            that while requests run with them.
        probe: Runs the probe's prompt through the serving code, as it is at that moment, with an
            adapter or without; returns its logits, `[T, V]`.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_loaded: int,
        probe: Callable[[AdapterRevision | None], Tensor],
    ) -> None:
        self.serving: ServingIdentity | None = None
        """What serves them, set by whoever knows: adapters that say where they come from must
        agree with it."""
        self.step = AdapterStep()
        self._layers = AdaptedLayers(model, self.step)
        self._max_loaded = max_loaded
        self._probe = probe
        self._base_probe: BaseProbe | None = None
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """By name, the least recently used first."""
        self._num_holders: Counter[AdapterRevision] = Counter()

    def prepare(self, name: str, path: str | Path) -> AdapterRevision:
        """Reads and checks an adapter and converts its tensors. Any thread may call it.

        The work gives way to the model's where both want the same processors.

        Args:
            name: What requests call it.
            path: A folder as PEFT saves it.

        Raises:
            NotFoundError: If there is no such folder.
            AdapterError: If it holds no adapter, one that is not supported, or one that does not
                fit; the message tells the counts and the first names that failed. Also if its
                `martlet.json` names another base or chat template.
            ParameterError: If the name is empty.
        """
        if not name.strip():
            raise ParameterError("an adapter needs a name that is not empty")
        folder = open_adapter(path)
        if self.serving is not None:
            provenance = check_provenance(folder.path, self.serving)
            difference = provenance and difference_in_serving(folder.path, provenance)
            if difference:
                logger.warning("%s", difference)
        with ThreadPoolExecutor(max_workers=1, initializer=_give_way) as executor:
            return executor.submit(preparing.prepare, name, folder, self._layers.base).result()

    def probe_base(self) -> BaseProbe:
        """What adapters are compared with; computed once, before the first one if not by then."""
        if self._base_probe is None:
            self._base_probe = BaseProbe.of(self._probe(None), self._probe(None))
        return self._base_probe

    def install(self, prepared: AdapterRevision) -> AdapterInfo:
        """Puts an adapter in place, or in the place of the one of its name, and proves it.

        Running requests keep the revision that they began with.

        Raises:
            AdapterError: If the probe shows no change. The model and the store are as before.
            BusyError: If all places in memory are taken by adapters that requests use.
            ResourceError: If they are all taken by pinned ones.
        """
        known = self._entries.get(prepared.name)
        fresh = self._layers.wrap(prepared.deltas)
        try:
            probe_kl = prove(prepared, self._probe(prepared), self.probe_base())
            if known is None or not known.is_loaded:
                self._make_room()
        except BaseException:
            self._layers.unwrap(fresh)
            self._free_if_unused(prepared)
            raise
        self._entries[prepared.name] = _Entry(
            revision=prepared,
            probe_kl=probe_kl,
            is_pinned=known is not None and known.is_pinned,
        )
        self._entries.move_to_end(prepared.name)
        if known is not None:
            self._free_if_unused(known.revision)
        info = self.get(prepared.name)
        logger.info("adapter %s at %s: %s", info.name, info.revision, info.proof)
        return info

    def drop(self, name: str) -> None:
        """Forgets a name; requests that run with it go on to their end.

        Raises:
            NotFoundError: If no adapter has the name.
        """
        entry = self._entry(name)
        del self._entries[name]
        self._free_if_unused(entry.revision)

    def pin(self, name: str, is_pinned: bool) -> AdapterInfo:
        """Keeps an adapter in memory, or lets it go again.

        Raises:
            NotFoundError: If no adapter has the name.
        """
        self._entry(name).is_pinned = is_pinned
        return self.get(name)

    def get(self, name: str) -> AdapterInfo:
        """What is known of an adapter.

        Raises:
            NotFoundError: If no adapter has the name; the message names those that there are.
        """
        entry = self._entry(name)
        revision = entry.revision
        return AdapterInfo(
            name=name,
            path=revision.path,
            revision=revision.revision,
            ranks=revision.ranks,
            num_tensors=revision.num_tensors,
            num_tensors_expected=revision.num_tensors_expected,
            probe_kl=entry.probe_kl,
            size_bytes=revision.size_bytes,
            is_pinned=entry.is_pinned,
            is_loaded=entry.is_loaded,
            num_requests=sum(
                count for held, count in self._num_holders.items() if held.name == name
            ),
        )

    def list(self) -> tuple[AdapterInfo, ...]:
        """Every adapter, by name."""
        return tuple(self.get(name) for name in sorted(self._entries))

    def acquire(self, name: str) -> AdapterRevision:
        """Takes hold of an adapter's newest revision for one request; `release` lets go.

        One that was put out of memory is read from its folder first; if the folder has changed
        meanwhile, that is a new revision.

        Raises:
            NotFoundError: If no adapter has the name; the message names those that there are.
            AdapterError, BusyError, ResourceError: If it has to be read again, as `prepare` and
                `install` do.
        """
        entry = self._entry(name)
        if not entry.is_loaded:
            self.install(self.prepare(name, entry.revision.path))
        self._entries.move_to_end(name)
        revision = self._entries[name].revision
        self._num_holders[revision] += 1
        return revision

    def release(self, revision: AdapterRevision) -> None:
        """Lets go of what `acquire` gave."""
        self._num_holders[revision] -= 1
        self._free_if_unused(revision)

    def check_integrity(self, held: Iterable[AdapterRevision]) -> None:
        """Compares the holders of every revision with the requests that there are.

        Raises:
            AssertionError: If a count is wrong, or memory is held for nobody.
        """
        assert Counter(held) == +self._num_holders, "holders of adapters do not match the requests"
        loaded = {entry.revision for entry in self._entries.values() if entry.is_loaded}
        alive = loaded | set(+self._num_holders)
        assert set(self._num_holders) <= alive, "a count is kept for a revision that is gone"
        assert set(self.step.stack) <= alive, "the layers stack a revision that is gone"

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise NotFoundError(f"no adapter is called {name!r}; there are: {known}")
        return self._entries[name]

    def _make_room(self) -> None:
        """Puts the least recently used adapter out of memory if all places are taken."""
        loaded = [entry for entry in self._entries.values() if entry.is_loaded]
        if len(loaded) < self._max_loaded:
            return
        unpinned = [entry for entry in loaded if not entry.is_pinned]
        for entry in unpinned:
            if not self._num_holders[entry.revision]:
                entry.is_loaded = False
                self._free_if_unused(entry.revision)
                return
        full = f"all {self._max_loaded} places for adapters are taken"
        if unpinned:
            raise BusyError(f"{full} by those that requests use", retry_after=RETRY_AFTER_S)
        raise ResourceError(
            f"{full} by pinned ones; unpin or drop one, or raise --max-loaded-adapters"
        )

    def _free_if_unused(self, revision: AdapterRevision) -> None:
        """Lets go of a revision that no request holds and no name stands for."""
        if self._num_holders[revision]:
            return
        del self._num_holders[revision]
        entry = self._entries.get(revision.name)
        if entry is not None and entry.is_loaded and entry.revision is revision:
            return
        if entry is not None and entry.revision is revision:
            # What is known of it stays, its tensors go.
            entry.revision = replace(revision, deltas={})
        self.step.forget(revision)
        self._layers.forget(revision)


def _give_way() -> None:
    """Lets this thread compute only where others leave room; Linux alone knows that of a thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
