"""Two processes train one stack: the same weights in both, one set of files, one voice, and decisions taken together."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image as pillow
from training_fixtures import picture

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.cli.main import run
from featup_app.training.distributed import ALONE, _Several, is_first, join_processes

ROOT = Path(__file__).resolve().parents[2]

needs_fabric = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None or not torch.distributed.is_available(),
    reason="needs Lightning Fabric (pip install lightning-fabric) and a torch that can distribute",
)


def torchrun(*arguments, timeout=110):
    """Two processes on the CPU, one thread each."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of the two processes saw, and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("distributed")
    done = torchrun(Path(__file__).with_name("distributed_program.py"), folder)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], folder


@needs_fabric
def test_both_processes_end_with_the_same_weights_curve_and_figures(seen):
    (one, other), _ = seen
    assert [(each["rank"], each["count"], each["processes"], each["steps"]) for each in (one, other)] == [
        (0, 2, 2, 4),
        (1, 2, 2, 4),
    ]
    for name in ("first", "losses", "figures"):
        assert one[name] == other[name], name
    assert one["figures"]["directions"] == 0
    assert one["gradient"] == other["gradient"] == [0.5]


@needs_fabric
def test_the_same_seed_gives_the_same_run_and_each_process_its_own_examples(seen):
    (one, other), _ = seen
    assert len({*one["repeated"], *other["repeated"]}) == 1
    assert len({*one["drawn"], *other["drawn"]}) > len(one["drawn"]), "they draw different examples"


@needs_fabric
def test_the_first_process_alone_writes_and_the_features_are_computed_once(seen):
    (one, other), folder = seen
    assert sorted(path.name for path in (folder / "shared").iterdir()) == ["half.training.pt", "one.training.pt"]
    # Five pictures to train on and one to measure on (its sixteen views in two batches), each computed by one process.
    assert one["backbone_calls"] + other["backbone_calls"] == 5 * 2 + 3
    assert min(one["backbone_calls"], other["backbone_calls"]) == 2 * 2


@needs_fabric
def test_what_happens_to_one_process_is_decided_for_all(seen):
    (one, other), _ = seen
    assert one["stopped"] == other["stopped"] == [3, "Stopped by request; the best state so far is kept."]
    assert one["cancelled_preparation"] is other["cancelled_preparation"] is True
    assert one["full_disk"] == other["full_disk"]
    assert one["full_disk"].startswith("Cannot write")
    assert one["not_finite"] == other["not_finite"]
    assert "The loss of step 3 was not finite" in one["not_finite"]


@needs_fabric
def test_a_resumed_training_is_the_one_that_was_never_interrupted(seen):
    (one, other), _ = seen
    assert one["resumed"] == other["resumed"] == one["repeated"][0]


@needs_fabric
def test_the_command_writes_one_set_of_files_and_speaks_once(tmp_path):
    for number in range(3):
        pillow.fromarray(picture(number).pixels).save(tmp_path / f"{number}.png")
    command = ("-m", "featup_app", "train", tmp_path, "--backbone", "tf_efficientnet_lite0", "--size", "64")
    limits = ("--steps", "2", "--views", "1", "--cache", tmp_path / "cache", "--json")
    done = torchrun(*command, *limits, "-o", tmp_path / "out" / "two.safetensors")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["steps"], report["processes"]) == (2, 2)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["two.json", "two.png", "two.safetensors"]
    assert "GLOBAL_RANK" not in done.stderr


def test_one_process_needs_no_package(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert join_processes() is ALONE
    assert is_first()
    assert ALONE.share([1, 2, 3]) == [1, 2, 3]
    assert ALONE.mean([0.25]) == ALONE.total([0.25]) == [0.25]
    with pytest.raises(Cancelled), ALONE.together():
        raise Cancelled


@pytest.mark.parametrize(("rank", "code"), [("0", 2), ("1", 0)])
def test_a_missing_package_is_named_by_the_first_process_alone(monkeypatch, capsys, tmp_path, rank, code):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(UpsamplerError, match="pip install lightning-fabric"):
        join_processes()
    assert is_first() == (rank == "0")
    with pytest.raises(SystemExit) as end:
        run(["train", str(tmp_path), "-o", str(tmp_path / "a.safetensors")])
    assert end.value.code == code, "torchrun kills all when one fails, so the others end quietly"
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("pip install lightning-fabric") == (rank == "0")


def test_backbones_are_spread_over_the_cuda_devices(monkeypatch):
    fourth = _Several(SimpleNamespace(global_rank=3, local_rank=3, world_size=4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [fourth.device(wanted) for wanted in (None, "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    assert ALONE.device(None) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fourth.device(None) is None
