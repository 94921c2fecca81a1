"""``featup-app bench implicit``: its figures are figures of the fits that it names. How large they are is no test's business."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import replace

import pytest
from training_fixtures import features_of, picture

from featup_app.base.errors import Cancelled, FeatUpError
from featup_app.bench import implicit as bench_implicit
from featup_app.bench.implicit import Point, compare_recipes, fitted, off_grid, reached_after, shortened
from featup_app.bench.implicit_ablations import AblationRow, ablations, run_ablations
from featup_app.bench.implicit_memory import MemoryRow, peak_memory
from featup_app.cli import bench_implicit as printed
from featup_app.cli.main import run
from featup_app.fields.implicit import FIT_RECIPES, FitRecipe
from featup_app.fields.implicit.planning import MOST_VIEWS
from featup_app.images import sample_images

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (24, 32)
OURS = FitRecipe(name="tiny", waves=32, views=8, views_per_step=4)
PAPER = replace(
    FIT_RECIPES["paper"], views=40, gradient_steps=6, views_per_step=2, hidden=12, frequencies=4, measure_every=2
)


def test_a_curve_has_the_error_of_the_best_state_at_its_points(features):
    found = fitted(features, OURS, factors=(2,))
    assert [point.step for point in found.points] == [1, 2]
    assert found.points[-1] == Point(2, found.seconds, found.error)
    assert 0 < found.points[0].seconds < found.seconds
    assert (found.steps, found.views, set(found.off_grid)) == (2, 8, {2})
    last = fitted(features, OURS, curve=False)
    assert last.points == (Point(2, last.seconds, found.error),)
    many = fitted(features, replace(OURS, views=80))
    steps = [point.step for point in many.points]
    assert steps[:4] == [1, 2, 3, 4]
    assert steps[-1] == 20
    assert len(steps) < 14


def test_a_field_on_its_own_grid_is_itself_and_a_rough_one_is_not_its_finer_version(features):
    field_of = {}
    for width in (0.5, 60.0):
        fit = bench_implicit.ImplicitFit(features, recipe=replace(OURS, position_width=width, waves=256, ridge=1e-3))
        fit.run()
        field_of[width] = fit.field()
        assert off_grid(field_of[width], SIZE, 1) == 0
    assert off_grid(field_of[0.5], SIZE, 4) < 0.25 < off_grid(field_of[60.0], SIZE, 4)


def test_the_published_recipe_is_extrapolated_or_run_to_its_end(features):
    begun = compare_recipes(features, ours=OURS, paper=PAPER, paper_steps=3, factors=(2,))
    assert begun.paper_extrapolated
    assert begun.seconds_to_paper is None
    assert (begun.paper.steps, begun.paper.views) == (3, 6)
    assert begun.paper_seconds > 2 * begun.paper.seconds_per_step
    assert begun.speedup == pytest.approx(begun.paper_seconds / begun.ours.seconds)
    assert begun.bilinear.error == begun.ours.bilinear
    assert begun.jbu.seconds > 0
    assert json.dumps(dataclasses.asdict(begun))
    whole = compare_recipes(features, ours=OURS, paper=PAPER, paper_steps=6, factors=())
    assert not whole.paper_extrapolated
    assert (whole.paper.steps, whole.paper.views) == (6, 40)
    assert whole.paper_seconds == whole.paper.seconds
    assert whole.seconds_to_paper == reached_after(whole.ours.points, whole.paper.error)


def test_when_a_curve_reaches_an_error():
    points = [Point(1, 0.5, 0.9), Point(2, 1.0, 0.4), Point(3, 1.5, 0.3)]
    assert [reached_after(points, error) for error in (1.0, 0.4, 0.35, 0.2)] == [0.5, 1.0, 1.5, None]
    assert shortened(FIT_RECIPES["paper"], 50) == replace(FIT_RECIPES["paper"], gradient_steps=50, views=500)
    assert shortened(FIT_RECIPES["paper"], 900).views == 3000


def test_every_ablation_changes_one_thing():
    chosen = ablations(OURS, descent_steps=4)
    assert chosen[0].recipe == OURS
    assert len({(each.switch, each.setting) for each in chosen}) == len(chosen)
    switches = {each.switch for each in chosen}
    for wanted in (
        "downsampler",
        "uncertainty",
        "weigh",
        "total_variation",
        "magnitude",
        "colour",
        "waves",
        "frequencies",
    ):
        assert wanted in switches
    assert {"views", "components", "image_weight", "ridge"} <= switches
    descent = next(each.recipe for each in chosen if each.setting == "box, descent")
    for each in chosen[1:]:
        if each.switch == "frequencies":
            continue
        base = descent if each.recipe.gradient_steps else OURS
        changed = {name for name, value in each.recipe.facts().items() if value != base.facts()[name]}
        assert len(changed) <= 1, each


def test_ablations_refer_to_the_first_of_their_kind(features):
    wanted = {("", "solved"), ("colour", "none"), ("downsampler", "box, descent"), ("magnitude", "0.001, descent")}
    chosen = [each for each in ablations(OURS, descent_steps=2) if (each.switch, each.setting) in wanted]
    reports = []
    maps = [features, features_of(picture(4), SIZE)]
    rows = list(run_ablations(maps, chosen, lambda words, done, total, stage: reports.append((done, total))))
    assert [row.difference == 0 for row in rows] == [True, False, True, False]
    assert rows[1].difference == pytest.approx(rows[1].error - rows[0].error)
    assert all(row.error == pytest.approx(sum(row.errors) / 2) and row.seconds > 0 for row in rows)
    assert {done for done, _ in reports} == {0, 1, 2, 3}


def test_memory_is_measured_in_a_process_of_its_own():
    row = peak_memory(sample_images()[0], "tf_efficientnet_lite0", "64")
    assert (row.photo, row.backbone) == ("cat.jpg", "tf_efficientnet_lite0")
    assert 0 < row.steps <= MOST_VIEWS / FIT_RECIPES["default"].views_per_step
    assert row.error > 0
    if sys.platform == "linux" and row.extra_mb is not None:
        assert 1 < row.extra_mb < row.predicted_mb
    with pytest.raises(FeatUpError, match=r"Fitting absent\.jpg at 64 with .+ could not be measured"):
        peak_memory(sample_images()[0].with_name("absent.jpg"), "tf_efficientnet_lite0", "64")

    def stop(words: str, done: int, total: int, stage=None) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        peak_memory(sample_images()[0], "tf_efficientnet_lite0", "64", progress=stop)


@pytest.fixture
def command(capsys):
    """Runs a bench in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run(["bench", *[str(argument) for argument in arguments]])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def test_tables_and_json(command, monkeypatch, features):
    row = compare_recipes(features, ours=OURS, paper=PAPER, paper_steps=6, factors=(2, 4))
    memory = MemoryRow("cat.jpg", "dinov2-s14-imgfocus", "default", (448, 672), 900.0, 1200.0, 44.0, 12, 0.5)
    monkeypatch.setattr(
        printed, "_compared", lambda *_: [row, replace(row, paper_extrapolated=True, seconds_to_paper=None)]
    )
    monkeypatch.setattr(printed, "_memory", lambda *_: [memory, replace(memory, extra_mb=None)])
    code, out, _ = command("implicit")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 100
    for words in (
        "bilinear",
        "JBU",
        "published recipe, 6 steps",
        "(measured)",
        "(extrapolated from its steps)",
        "1200",
    ):
        assert words in out
    code, out, _ = command("implicit", "--json")
    facts = json.loads(out)
    assert facts["rows"][0]["ours"]["error"] == row.ours.error
    assert facts["memory"][0]["extra_mb"] == 900.0
    assert facts["ablations"] == []
    monkeypatch.setattr(printed, "_ablations", lambda *_: [AblationRow("colour", "none", 0.4, 0.015, 7.0, (0.4,))])
    code, out, _ = command("implicit", "--ablations")
    assert "+0.0150" in out
    assert json.loads(command("implicit", "--ablations", "--json")[1])["ablations"][0]["switch"] == "colour"


def test_bad_input_is_one_sentence(command, tmp_path):
    for arguments, words in (
        (("implicit", "--photos", tmp_path / "absent"), "There is no folder"),
        (("implicit", "--photos", tmp_path), "holds no photos"),
        (("implicit", "--naive"), 'belongs to "jbu"'),
        (("jbu", "--quick"), 'The option --quick belongs to "implicit"'),
        (("jbu", "--ablations"), 'The option --ablations belongs to "implicit"'),
        (("jbu", "--photos", tmp_path), 'The option --photos belongs to "implicit"'),
        (("everything",), "train, implicit"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert words in err


def test_a_folder_gives_its_first_photos(tmp_path):
    for name in ("b.jpg", "a.png", "notes.txt", "c.JPG"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in printed._find_photos(tmp_path)] == ["a.png", "b.jpg", "c.JPG"]
    assert len(printed._find_photos(None)) == 3
