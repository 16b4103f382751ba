"""Memory figures read from made-up /proc and /sys trees, and from this machine's own."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from martlet.models.available_memory import read_available_memory

_MEMINFO = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  800 kB\nHugePages_Total:  0\n"
_V2 = "sys/fs/cgroup"
_V1 = "sys/fs/cgroup/memory"


def _group_v2(folder: str, limit: str, usage: int, reclaimable: int) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {reclaimable}\n",
    }


def _group_v1(folder: str, limit: int, usage: int, reclaimable: int) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"inactive_file 0\ntotal_inactive_file {reclaimable}\n",
    }


@pytest.mark.parametrize(
    ("membership", "groups", "available_bytes"),
    [
        pytest.param(None, {}, 800 << 10, id="no cgroups"),
        pytest.param("0::/a", {}, 800 << 10, id="no memory controller"),
        pytest.param("0::/", _group_v2(_V2, "max", 5, 0), 800 << 10, id="v2 without a limit"),
        pytest.param("0::/", _group_v2(_V2, "5000", 3000, 1000), 3000, id="v2 with file cache"),
        pytest.param(
            "0::/a/b",
            _group_v2(f"{_V2}/a/b", "max", 10, 0) | _group_v2(f"{_V2}/a", "700", 600, 0),
            100,
            id="v2, the parent's limit",
        ),
        pytest.param(
            "0::/host/path", _group_v2(_V2, "5000", 0, 0), 5000, id="v2 inside a container"
        ),
        pytest.param("0::/", _group_v2(_V2, "5000", 9000, 0), 0, id="v2 over its limit"),
        pytest.param(
            "4:cpu:/x\n3:memory:/job", _group_v1(f"{_V1}/job", 4000, 3000, 500), 1500, id="v1"
        ),
        pytest.param(
            "3:memory:/",
            _group_v1(_V1, 9223372036854771712, 3000, 0),
            800 << 10,
            id="v1 without a limit",
        ),
    ],
)
def test_the_smallest_limit_counts(
    membership: str | None,
    groups: Mapping[str, str],
    available_bytes: int,
    tmp_path: Path,
) -> None:
    files = {"proc/meminfo": _MEMINFO, **groups}
    if membership is not None:
        files["proc/self/cgroup"] = f"{membership}\n"
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert read_available_memory(tmp_path).available_bytes == available_bytes


def test_without_proc_the_whole_machine_counts(tmp_path: Path) -> None:
    memory = read_available_memory(tmp_path)
    assert memory.source == "the machine, all of it"
    assert memory.available_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_this_machine_has_memory() -> None:
    assert read_available_memory().available_bytes > 0
