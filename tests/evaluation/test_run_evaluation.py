"""An evaluation from Python: the same figures as the command, and requests as text for other processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_pictures import write_photos

from featup_app.base.errors import EvaluationError
from featup_app.cli.main import run
from featup_app.evaluation.run import EvaluationRequest, run_evaluation


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def request(photos: Path, output: Path, **more: object) -> EvaluationRequest:
    return EvaluationRequest(
        output=output, data=(photos,), methods="lowres,bilinear", size="56x84", costs=False, pictures=0, **more
    )


def test_it_gives_what_the_command_gives(photos, tmp_path, capsys):
    result = run_evaluation(request(photos, tmp_path / "python"))
    assert [row.method for row in result.reports[0].rows] == ["lowres", "bilinear"]
    assert {path.name for path in result.files} == {"report.json", "report.csv", "report.html"}
    assert result.summary is None
    assert result.passed_over == result.notes == ()
    arguments = ["--data", photos, "--methods", "lowres,bilinear", "--size", "56x84", "--no-costs", "--pictures", "0"]
    with pytest.raises(SystemExit) as stopped:
        run(["evaluate", *map(str, arguments), "-o", str(tmp_path / "command")])
    assert not stopped.value.code
    one, other = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("python", "command"))
    for report in (one, other):
        for row in report["rows"]:
            row.pop("seconds")
    assert one["rows"] == other["rows"]
    capsys.readouterr()


def test_another_process_can_help(photos, tmp_path):
    alone = run_evaluation(request(photos, tmp_path / "alone"))
    helped = run_evaluation(request(photos, tmp_path / "helped", workers=2))
    assert helped.notes == ()
    assert [row.figure for row in helped.reports[0].rows] == pytest.approx(
        [row.figure for row in alone.reports[0].rows]
    )


def test_a_request_survives_as_text(tmp_path):
    asked = EvaluationRequest(
        output=tmp_path, data=(tmp_path / "a", tmp_path / "b"), protocols=("hard", "soft"), limit="3,cam=2", steps=7
    )
    assert EvaluationRequest.from_json(asked.as_json()) == asked


def test_what_cannot_be_evaluated_gets_a_sentence(photos, tmp_path):
    with pytest.raises(EvaluationError, match="fits nothing"):
        run_evaluation(request(photos, tmp_path, train=(photos,)))
    with pytest.raises(EvaluationError, match='no task "sound"'):
        run_evaluation(request(photos, tmp_path, task="sound"))
