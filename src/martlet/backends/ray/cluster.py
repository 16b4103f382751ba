"""A Ray cluster: how it is joined, and where on it an engine finds room."""

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from martlet.backends.options import BackendOptions
from martlet.errors import (
    EngineError,
    MartletError,
    MissingExtraError,
    ParameterError,
    ResourceError,
    UnavailableError,
)

try:
    import ray
    from ray._private import worker as ray_worker
    from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise MissingExtraError("--ray", extra="ray") from error

logger = logging.getLogger(__name__)

_CLIENT_SCHEME = "ray://"
_KNOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Room for one engine on one node."""

    node_id: str
    node: str
    """The node, for people."""
    index: int
    """Counts the engines of the node."""
    num_cpus: int
    num_gpus: int

    def start(self, worker: type) -> Any:
        """Starts an actor here, and nowhere else.

        Returns:
            Ray's handle. Its calls fail if the node dies, or has meanwhile died.
        """
        there = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        return (
            ray.remote(worker)
            .options(num_cpus=self.num_cpus, num_gpus=self.num_gpus, scheduling_strategy=there)
            .remote()
        )


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What an engine takes of a node."""

    num_gpus: int
    """0 for an engine on the processor, which takes all cores of its node."""

    def seats_of(self, node: Mapping[str, Any]) -> list[Seat]:
        """The seats of a node, as `ray.nodes` describes one."""
        num_cpus = int(node["Resources"].get("CPU", 0))
        num_gpus = int(node["Resources"].get("GPU", 0))
        if not node["Alive"] or num_cpus == 0:
            return []
        num_seats = num_gpus // self.num_gpus if self.num_gpus else 1
        return [
            Seat(
                node_id=node["NodeID"],
                node=f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
                index=index,
                num_cpus=1 if self.num_gpus else num_cpus,
                num_gpus=self.num_gpus,
            )
            for index in range(num_seats)
        ]

    def seats(self) -> list[Seat]:
        """The seats of all nodes that are alive now."""
        return [seat for node in ray.nodes() for seat in self.seats_of(node)]


def connect(address: str) -> Callable[[], None]:
    """Joins a cluster that runs; a program that has joined one already stays in it.

    Args:
        address: `auto` for the cluster that this machine belongs to, or `HOST:PORT`.

    Returns:
        What is to be called at the end.

    Raises:
        ParameterError: If it is neither of these.
        UnavailableError: If no cluster answers there, or it does not let this program in.
    """
    if ray.is_initialized():
        return lambda: None
    if address != "auto":
        _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise _no_cluster(address, error) from error
        raise _not_joined(address, error) from error
    show = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = _log_message

    def disconnect() -> None:
        ray.shutdown()
        ray_worker.print_to_stdstream = show

    return disconnect


def _knock(address: str) -> None:
    """Ray would try for minutes where nobody listens."""
    if address.startswith(_CLIENT_SCHEME):
        raise ParameterError(
            f"--ray {address}: a run's journal belongs on a node of the cluster; run this command "
            "on one, with --ray auto"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ParameterError(f"--ray takes auto or HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"no Ray cluster answers at {address} ({_first_line(error)}); start one with: "
        "ray start --head"
    )


def _not_joined(address: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"--ray {address}: something answers, but Ray does not join its cluster "
        f"({_first_line(error)}); it must have the same versions of Ray and Python, and the same "
        "token, if it wants one: see RAY_AUTH_MODE in Ray's documentation"
    )


def _log_message(data: Any, ignore_prefix: bool) -> None:  # noqa: ARG001  # called by name
    """Takes the place of what shows a cluster's troubles on stdout, which is for data here."""
    logger.info("Ray: %s", "\n".join(data["lines"]))


def demand_of(options: BackendOptions) -> Demand:
    """What an engine takes; on a cluster without GPUs, the cores of a node.

    Raises:
        ParameterError: If the device is named by a number.
        ResourceError: If no node has that much.
    """
    if options.device not in ("auto", "cpu", "cuda"):
        raise ParameterError(
            f"device is {options.device!r}, and on a cluster Ray gives GPUs to engines; give "
            "--device cuda, cpu or auto"
        )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max(int(resources.get("GPU", 0)) for resources in nodes)
    if options.device == "cpu" or (options.device == "auto" and not most):
        return Demand(num_gpus=0)
    vllm = options.vllm
    num_gpus = vllm.tensor_parallel_size * vllm.pipeline_parallel_size * vllm.data_parallel_size
    if num_gpus > most:
        raise ResourceError(
            f"an engine takes {num_gpus} GPUs of one node, and no node of the cluster has more "
            f"than {most}; see: ray status"
        )
    return Demand(num_gpus=num_gpus)


def result_of(call: Any) -> Any:
    """The result of a call, once it is there.

    Raises:
        MartletError: What the call raised.
        EngineError: If its actor is gone, or it failed in a way nobody foresaw.
    """
    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, MartletError):
            raise error.cause from None
        raise EngineError(f"{type(error.cause).__name__}: {error.cause}") from error
    except ActorUnavailableError as error:
        raise EngineError("its process or its node cannot be reached any more") from error
    except RayError as error:
        raise EngineError(_first_line(error)) from error


def ready_of(calls: list[Any], *, timeout_s: float) -> list[Any]:
    """Those of some calls that are done: all that are, after waiting for the first."""
    if not calls:
        return []
    ray.wait(calls, num_returns=1, timeout=timeout_s)
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
    return list(done)


def _first_line(error: BaseException) -> str:
    """The first line of an error's message: Ray's go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__
