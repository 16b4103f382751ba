"""How much memory this process may still take: what the machine has, and what its cgroup allows.

Inside a container the machine's figure is not the limit, and going by it ends in a kill.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUP_MOUNT = Path("sys/fs/cgroup")
# A v1 group without a limit reports a number near 2**63 instead of saying so.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, kw_only=True)
class AvailableMemory:
    """Memory that can still be taken, and whose limit that is."""

    available_bytes: int
    source: str
    """Where the smallest figure comes from: the machine, or a cgroup."""


@dataclass(frozen=True, kw_only=True)
class _GroupFiles:
    """The files of a cgroup version: the limit, the use, and the reclaimable part of the use."""

    limit: str
    usage: str
    reclaimable: str


_VERSION_1 = _GroupFiles(
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    reclaimable="total_inactive_file",
)
_VERSION_2 = _GroupFiles(limit="memory.max", usage="memory.current", reclaimable="inactive_file")


def read_available_memory(root: Path = Path("/")) -> AvailableMemory:
    """Reads the memory that is left on this machine, within every cgroup that holds this process.

    Args:
        root: The root of the file system that has `proc` and `sys`.
    """
    candidates = [_read_machine(root), *_read_groups(root)]
    return min(candidates, key=lambda memory: memory.available_bytes)


def _read_machine(root: Path) -> AvailableMemory:
    try:
        fields = _read_fields(root / "proc/meminfo")
    except OSError:
        return _read_whole_machine()
    return AvailableMemory(available_bytes=fields["MemAvailable"] * 1024, source="the machine")


def _read_whole_machine() -> AvailableMemory:
    # macOS has no /proc, and POSIX tells what there is but not what is free.
    whole_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return AvailableMemory(available_bytes=whole_bytes, source="the machine, all of it")


def _read_groups(root: Path) -> Iterator[AvailableMemory]:
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # a kernel without cgroups
    for membership in memberships:
        hierarchy, controllers, group = membership.split(":", 2)
        if hierarchy == "0":
            yield from _walk_up(root / _CGROUP_MOUNT, group, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _walk_up(root / _CGROUP_MOUNT / "memory", group, _VERSION_1)


def _walk_up(mount: Path, group: str, files: _GroupFiles) -> Iterator[AvailableMemory]:
    # Each ancestor's limit holds too. In a container the path of /proc is the host's, and only
    # the mount's own root exists: the walk ends there in both cases.
    folder = mount / group.lstrip("/")
    while True:
        memory = _read_group(folder, files)
        if memory is not None:
            yield memory
        if folder == mount:
            return
        folder = folder.parent


def _read_group(folder: Path, files: _GroupFiles) -> AvailableMemory | None:
    try:
        limit = (folder / files.limit).read_text().strip()
        usage_bytes = int((folder / files.usage).read_text())
        reclaimable_bytes = _read_fields(folder / "memory.stat").get(files.reclaimable, 0)
    except OSError:
        return None  # no memory controller here, or a group that this process cannot see
    if limit == "max" or int(limit) >= _NO_LIMIT_BYTES:
        return None
    left_bytes = int(limit) - usage_bytes + reclaimable_bytes
    return AvailableMemory(
        available_bytes=max(0, left_bytes),
        source=f"the limit of cgroup {folder}",
    )


def _read_fields(path: Path) -> dict[str, int]:
    """Reads lines such as `MemTotal:  1024 kB` and `inactive_file 4096`; units are left out."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) >= 2}
