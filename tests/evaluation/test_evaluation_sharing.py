"""Several processes share a run: no work is done twice, and other processes do the claimed work of a killed process."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import textwrap
import time

import pytest

from featup_app.evaluation.claims import claimed
from featup_app.evaluation.helpers import Helpers, threads_each
from featup_app.evaluation.records import Records

WORKER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from featup_app.evaluation.records import Records

    folder, name, seconds, count = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    with Records(folder) as records:
        print("ready", flush=True)
        left = list(range(count))
        while left:
            for piece in list(left):
                if records.find("key", str(piece)) is not None:
                    left.remove(piece)
                    continue
                with records.claimed(f"piece {piece}") as mine:
                    if mine and records.find("key", str(piece)) is None:
                        time.sleep(seconds)
                        records.keep("key", str(piece), {"by": name, "padding": "x" * 20000})
            time.sleep(0.01)
    """)


def start(folder, name: str, seconds: float, count: int) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WORKER, str(folder), name, str(seconds), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def results(folder) -> list[dict]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def test_a_claim_is_one_holders_and_free_again_afterwards(tmp_path):
    with claimed(tmp_path, "a") as first:
        assert first
        with claimed(tmp_path, "a") as second, claimed(tmp_path, "b") as other:
            assert (second, other) == (False, True)
    with claimed(tmp_path, "a") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_serves_one_process(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path, "a") as mine:
        assert mine


def test_two_processes_do_every_piece_once_and_write_whole_lines(tmp_path):
    workers = [start(tmp_path, name, 0.01, 40) for name in ("one", "two")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    entries = results(tmp_path)
    assert sorted(int(entry["picture"]) for entry in entries) == list(range(40))
    assert {entry["values"]["by"] for entry in entries} == {"one", "two"}
    assert not (tmp_path / ".claims").exists()


def test_what_a_killed_process_had_claimed_is_done_by_the_other(tmp_path):
    slow = start(tmp_path, "slow", 600, 3)
    assert slow.stdout.readline() == "ready\n"
    claims = tmp_path / ".claims"
    while not (claims.is_dir() and list(claims.iterdir())):
        time.sleep(0.01)
    quick = start(tmp_path, "quick", 0, 3)
    assert quick.stdout.readline() == "ready\n"
    while len(results(tmp_path)) < 2:
        time.sleep(0.01)
    assert quick.poll() is None, "the third piece is claimed, so it waits"
    slow.kill()
    slow.wait()
    assert quick.wait(30) == 0
    assert {entry["values"]["by"] for entry in results(tmp_path)} == {"quick"}
    with Records(tmp_path) as records:
        assert records.find("key", "2") is not None


def test_results_of_others_are_seen_and_half_lines_are_not(tmp_path):
    with Records(tmp_path) as one, Records(tmp_path) as two:
        one.keep("key", "a", {"value": 1})
        assert two.find("key", "a") is None
        with two.claimed("a") as mine:
            assert mine
            assert two.find("key", "a") == {"value": 1}, "a claim reads the results of others"
        with (tmp_path / "results.jsonl").open("a") as stream:
            stream.write('{"configuration": "key", "picture": "b", "val')
        two.refresh()
        two.keep("key", "c", {"value": 3})
        one.refresh()
        assert (one.find("key", "b"), one.find("key", "c")) == (None, {"value": 3})


def test_waiting_for_another_can_be_cancelled(tmp_path):
    def stop(words, done, total, stage=None):
        raise InterruptedError(words)

    waiting = pytest.raises(InterruptedError, match="waiting for another process")
    with Records(tmp_path) as one, Records(tmp_path) as two, one.exclusive("fit"), waiting, two.exclusive("fit", stop):
        pytest.fail("two hold the same claim")


def test_helpers_end_with_the_block_and_their_last_words_are_kept():
    with Helpers([sys.executable, "-c", "import time; time.sleep(600)"], count=2, threads=1) as helpers:
        assert len(set(helpers.process_ids)) == 2
        assert helpers.complaint() is None
        started = time.perf_counter()
    assert time.perf_counter() - started < 5
    with Helpers([sys.executable, "-c", "import sys; sys.exit('it is broken')"], count=1, threads=1) as helpers:
        while helpers.complaint() is None:
            time.sleep(0.01)
        assert helpers.complaint() == "it is broken"
    assert threads_each(10_000) == 1
