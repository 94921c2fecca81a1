"""``featup-app bench``: its figures are figures. How large they are is no test's business."""

from __future__ import annotations

import json

import pytest

from featup_app.cli.main import run
from featup_app.engine.bench import Machine, Row, bench_similarity, interleaved
from featup_app.ops import native_status


def test_functions_take_turns_and_the_first_run_does_not_count():
    calls = []
    medians = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert set(medians) == {"a", "b"}
    assert all(0 <= seconds < 1 for seconds in medians.values())


def test_an_unknown_subject_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["bench", "everything"])
    assert stopped.value.code == 2
    assert "adaptive-conv, jbu, similarity" in capsys.readouterr().err


def test_rows_of_similarity_compare_native_with_torch():
    if not native_status().backend.startswith("native"):
        pytest.skip("needs the compiled operators, which this installation lacks")
    rows = list(bench_similarity(Machine(1, 10.0, 100.0), 1, lambda *_: None))
    assert [row.name for row in rows] == ["first click", "next click"]
    for row in rows:
        assert isinstance(row, Row)
        assert row.native_ms > 0
        assert row.speedup == pytest.approx(row.torch_ms / row.native_ms)
        assert row.peak_fraction == pytest.approx(row.gflops / 100)
        assert json.dumps(row.__dict__)
