"""A training on a disk that is really full."""

from pathlib import Path

import pytest

from martlet.train.disk import full_disk_named
from support.small_disk import run_on_small_disk

FULL_DISK = """
from pathlib import Path
import torch
from safetensors.torch import save_file
from martlet.errors import ResourceError
from martlet.train.disk import check_room, full_disk_named

here, value = Path.cwd(), torch.zeros(2 << 20)
writers = {
    "room": lambda: check_room(here, num_trained=1 << 20),
    "weights": lambda: save_file({"value": value}, "weights"),
    "optimizer": lambda: torch.save(value, "optimizer"),
    "metrics": lambda: Path("metrics").write_bytes(bytes(4 << 20)),
}
for name, write in writers.items():
    try:
        with full_disk_named(here):
            write()
    except ResourceError as error:
        print(name, error)
    for left in here.iterdir():
        left.unlink()
"""


def test_each_way_to_meet_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    said = run_on_small_disk(tmp_path, FULL_DISK).splitlines()
    assert [line.split()[0] for line in said] == ["room", "weights", "optimizer", "metrics"]
    assert f"need 32 MiB, and the disk of {tmp_path} has 1 MiB left" in said[0]
    assert all("run the same command again" in line for line in said[1:])


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="unrelated"), full_disk_named(tmp_path):
        raise RuntimeError("unrelated")
