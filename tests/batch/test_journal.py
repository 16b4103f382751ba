"""The journal: wholly or not at all, one owner at a time, and clear words when it cannot be had."""

import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from martlet.batch.journal import Journal
from martlet.batch.sample import StoredSample
from martlet.errors import InputError, ResourceError

SAMPLE = StoredSample(
    index=2,
    text="a reply 好",
    num_tokens=5,
    finish_reason="length",
    cumulative_logprob=-1.5,
    num_prompt_tokens=7,
    num_cached_tokens=3,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.jsonl.journal"


def test_a_sample_comes_back_as_it_was(path) -> None:
    other = replace(SAMPLE, index=0, cumulative_logprob=None)
    with Journal.open(path) as journal:
        journal.record("key", SAMPLE)
        journal.record("key", other)
        journal.commit()
    with Journal.open(path) as journal:
        assert journal.finished("key") == {0: other, 2: SAMPLE}
        assert journal.finished("other key") == {}


def test_what_was_not_committed_is_not_there(path) -> None:
    with Journal.open(path) as journal:
        journal.record("key", SAMPLE)
    with Journal.open(path) as journal:
        assert journal.finished("key") == {}


def test_a_failed_sample_is_not_finished_until_it_is_drawn_again(path) -> None:
    with Journal.open(path) as journal:
        journal.record("key", StoredSample.failed(2, "why"))
        journal.commit()
        assert journal.finished("key") == {}
        journal.record("key", SAMPLE)
        journal.commit()
        assert journal.finished("key") == {2: SAMPLE}


def test_only_one_run_has_it_open(path) -> None:
    refusal = pytest.raises(InputError, match=r"another run has .* open; wait")
    with Journal.open(path), refusal, Journal.open(path):
        pass
    with Journal.open(path):
        pass


def test_another_process_finds_it_locked(path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom martlet.batch.journal import Journal\n"
        "with Journal.open(Path(sys.argv[1])):\n    pass\n"
    )
    with Journal.open(path):
        finished = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
    assert "InputError: another run has" in finished.stderr


def test_only_the_database_and_its_log_lie_on_disk(path) -> None:
    with Journal.open(path) as journal:
        journal.record("key", SAMPLE)
        journal.commit()
        assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}-wal"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_journal_is_refused(path) -> None:
    path.write_text("something else, and long enough for a header" * 50)
    with pytest.raises(InputError, match="not a readable journal"), Journal.open(path):
        pass


def test_a_journal_of_another_version_is_refused(path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="journal of another version"), Journal.open(path):
        pass


def test_a_folder_that_is_not_there(tmp_path) -> None:
    path = tmp_path / "absent" / "a.journal"
    with pytest.raises(InputError, match="cannot be written"), Journal.open(path):
        pass


def test_a_full_disk_is_a_resource_error(path) -> None:
    with Journal.open(path) as journal:
        journal._connection.execute("PRAGMA max_page_count = 3")
        with pytest.raises(ResourceError, match="full"):
            journal.record("key", replace(SAMPLE, text="long" * 10_000))
