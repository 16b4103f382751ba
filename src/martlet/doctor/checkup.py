"""The whole look: the machine, the packages, a model, its adapters, a server."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from martlet.doctor.adapter import AdapterExamination, KnownAdapter
from martlet.doctor.finding import Finding
from martlet.doctor.gpu import examine_gpu
from martlet.doctor.machine import (
    TorchCpu,
    cpu_flags,
    examine_cpu,
    examine_disks,
    examine_memory,
    examine_port,
)
from martlet.doctor.model import KnownModel, ModelExamination
from martlet.doctor.packages import examine_python, examine_requirements, examine_vllm
from martlet.doctor.server import examine_server

_VLLM_VARIABLE = "MARTLET_VLLM"


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What is to be looked at; without a model, the machine and the packages alone."""

    model: str | None = None
    """A folder, an id of what was downloaded before, or `demo`."""
    chat_template: Path | None = None
    """A Jinja file in place of the model's own template, as every other verb takes it."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Folders by the names that requests call them."""
    url: str | None = None
    """Of a server, with its `/v1`."""
    port: int = 8000
    """Where `martlet serve` would listen."""

    def findings(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
        """Every finding, one after the other: later ones rest on earlier ones.

        Args:
            tell: Called with what is looked at next.
        """
        tell("the packages")
        yield from chain([examine_python()], examine_requirements(), [_vllm()])
        tell("the machine")
        yield examine_cpu(cpu_flags(), TorchCpu.here())
        yield examine_gpu()
        yield examine_memory()
        yield from examine_disks()
        if not self._is_own_server:
            yield examine_port(self.port, model=self.model)
        model = None
        if self.model is not None:
            tell(f"the model {self.model}")
            examination = ModelExamination(self.model, self.chat_template)
            yield from examination.findings()
            model = examination.model
        yield from self._with_model(model, tell)

    def _with_model(
        self, model: KnownModel | None, tell: Callable[[str], None]
    ) -> Iterator[Finding]:
        adapters: list[KnownAdapter] = []
        for name, path in self.adapters.items():
            tell(f"the adapter {name}")
            examination = AdapterExamination(name, path, model)
            yield from examination.findings()
            if examination.adapter is not None:
                adapters.append(examination.adapter)
        if self.url is not None:
            tell(f"the server at {self.url}")
            yield from examine_server(self.url, model=model, adapters=adapters)

    @property
    def _is_own_server(self) -> bool:
        """Whether the port is that of the server that is looked at."""
        parts = urlsplit(self.url or "")
        return parts.port == self.port and parts.hostname in ("localhost", "127.0.0.1")


def _vllm() -> Finding:
    named = os.environ.get(_VLLM_VARIABLE)
    return examine_vllm(named or "vllm", is_named=named is not None)
