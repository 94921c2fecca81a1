"""The loop: it learns, resumes to the last bit, stops when asked, keeps the best, and leaves files that can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image as pillow
from training_fixtures import PatchBackbone, pictures

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.fields import load_upsampler
from featup_app.training import save_training, train_upsampler
from featup_app.training.cache import Preparation, prepare_pictures
from featup_app.training.examples import TrainingSet
from featup_app.training.held_out import relative_errors, split_held_out
from featup_app.training.recipes import DEFAULT, PAPER, Rates
from featup_app.training.report import draw_curve, training_report
from featup_app.training.resume_files import read_training, write_training
from featup_app.training.train import find_images
from featup_app.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = replace(
    DEFAULT,
    directions=0,
    views=2,
    widths=(0.5,) * 4,
    restoration=0.0,
    learn_kernel_correction=True,
    learn_feature_correction=True,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, recipe=QUICK, images=4, backbones=None, **options):
    chosen = {"steps": 4, "size": 32, "views": 3, "measure_every": 2, **options}
    return train_upsampler(pictures(images), backbones or PatchBackbone(), recipe, cache=cache, **chosen)


def trainer(cache, recipe=QUICK, seed=0):
    backbone, images = PatchBackbone(), pictures(4)
    small = Preparation(size=32, views=3)
    sets = [
        prepare_pictures(part, backbone, preparation=small, folder=cache, budget=10**8)
        for part in (images[:3], images[3:])
    ]
    return Trainer([TrainingSet(*sets)], recipe, seed=seed)


def test_training_lowers_the_error_on_held_out_views_below_both_baselines(cache):
    result = train(cache, images=8, steps=60, measure_every=20)
    figures = result.figures
    assert figures["stack"] < 0.98 * min(figures["classical"], figures["bilinear"])
    assert figures["start"] == pytest.approx(figures["classical"], rel=0.02), "it starts as the classical upsampler"
    assert figures["directions"] == 0
    assert [point.step for point in result.curve] == [0, 20, 40, 60]
    assert result.best_step > 0
    assert result.stopped == ""


def test_the_same_seed_gives_the_same_stack_and_another_another(cache):
    one, same, other = train(cache, seed=3), train(cache, seed=3), train(cache, seed=4)
    for name, value in one.stack.state_dict().items():
        assert torch.equal(value, same.stack.state_dict()[name]), name
    assert not torch.equal(one.stack.up4.fixup_proj[0].weight, other.stack.up4.fixup_proj[0].weight)


@pytest.mark.parametrize("recipe", [QUICK, replace(PAPER, downsampler_size=4, images_per_step=1, clip=0.0)])
def test_a_resumed_training_is_the_one_that_was_never_interrupted(cache, tmp_path, recipe):
    straight = trainer(cache, recipe)
    straight.run(steps=6, measure_every=2)
    first = trainer(cache, recipe)
    file = tmp_path / "half.training.pt"

    def stop(words, done, total, stage=None):
        if words == "training" and done == 3:
            raise Cancelled

    first.run(steps=6, measure_every=2, progress=stop, checkpoint=file)
    second = trainer(cache, recipe)
    second.resume(file)
    assert second.step == 3
    second.run(steps=6, measure_every=2)
    for name, value in straight.objective.state_dict().items():
        assert torch.equal(value, second.objective.state_dict()[name]), name
    assert [point.step for point in second.curve] == [0, 2, 4, 6]


def test_a_checkpoint_of_another_training_is_refused_naming_the_difference(cache, tmp_path):
    file = tmp_path / "a.training.pt"
    trainer(cache).save(file)
    with pytest.raises(UpsamplerError, match="seed is 0, not 1"):
        trainer(cache, seed=1).resume(file)
    with pytest.raises(UpsamplerError, match="views is 2, not 1"):
        trainer(cache, replace(QUICK, views=1)).resume(file)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_files_that_are_no_checkpoint_are_refused(cache, tmp_path, content):
    file = tmp_path / "b.training.pt"
    if content is None:
        torch.save({"schema": "something else"}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(UpsamplerError, match="Cannot resume"):
        trainer(cache).resume(file)
    with pytest.raises(UpsamplerError, match="no such file"):
        trainer(cache).resume(tmp_path / "none.pt")


def test_a_checkpoint_that_would_execute_code_is_refused(cache, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    file = tmp_path / "trap.training.pt"
    torch.save({"trap": Trap()}, file)
    with pytest.raises(UpsamplerError, match="Cannot resume"):
        trainer(cache).resume(file)
    assert not (tmp_path / "sprung").exists()


def test_checkpoints_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "c.training.pt"
    write_training(file, {"facts": {"a": 1}, "step": 5})
    assert read_training(file, {"a": 1})["step"] == 5
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UpsamplerError, match="no space left on device"):
        write_training(file, {"facts": {"a": 2}})
    assert read_training(file, {"a": 1})["step"] == 5
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_stopping_keeps_the_best_state(cache):
    def stop(words, done, total, stage=None):
        if words == "training" and done == 3:
            raise Cancelled

    result = train(cache, steps=100, progress=stop)
    assert result.steps == 3
    assert "Stopped by request" in result.stopped
    assert result.figures["stack"] == min(point.held_out for point in result.curve)
    assert result.figures["directions"] > 0


def test_cancelling_during_the_preparation_passes(tmp_path):
    def stop(words, done, total, stage=None):
        raise Cancelled

    with pytest.raises(Cancelled):
        train(tmp_path, progress=stop)


def test_a_loss_that_is_not_finite_ends_the_training_with_the_last_good_state(cache, tmp_path):
    subject, file = trainer(cache), tmp_path / "good.training.pt"
    subject.run(steps=2, measure_every=1, checkpoint=file)
    kept = file.read_bytes()
    good = {name: value.clone() for name, value in subject.objective.stack.state_dict().items()}
    with torch.no_grad():
        subject.objective.stack.up1.range_proj[0].weight.fill_(float("nan"))
    result = subject.run(steps=5, measure_every=1, checkpoint=file)
    assert file.read_bytes() == kept, "a training can be resumed from before it diverged"
    assert "The loss of step 3 was not finite" in result.stopped
    assert result.steps == 2
    assert all(torch.isfinite(value).all() for value in result.stack.state_dict().values())
    if result.best_step == 2:
        assert torch.equal(result.stack.up1.range_proj[0].weight, good["up1.range_proj.0.weight"])


def test_the_state_of_a_training_is_reported(cache):
    states = []
    train(cache, on_state=states.append)
    assert (states[0].step, states[0].loss, states[0].fraction) == (0, None, 0)
    last = states[-1]
    assert (last.step, last.steps, last.fraction, last.seconds_left) == (4, 4, 1, 0)
    assert last.steps_per_second > 0
    assert last.best <= last.held_out
    assert last.best == min(state.held_out for state in states)
    assert last.bilinear > 0
    assert last.classical > 0


def test_minutes_limit_a_training(cache):
    result = train(cache, steps=None, minutes=1e-4)
    assert 1 <= result.steps < 50
    assert result.stopped == ""


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"steps": None}, "steps or of minutes"),
        ({"steps": 0}, "at least 1"),
        ({"steps": None, "minutes": 0.0}, "more than 0"),
    ],
)
def test_a_training_needs_a_limit(cache, limits, words):
    with pytest.raises(UpsamplerError, match=words):
        train(cache, **limits)


def test_a_universal_upsampler_learns_from_several_backbones(cache, tmp_path):
    result = train(cache, backbones=[PatchBackbone(), PatchBackbone("other", channels=4, seed=1)], steps=4)
    assert result.universal
    report = training_report(result)
    assert report["channels"] is None
    assert report["backbone"] == ["patches", "other"]
    weights, _, _ = save_training(result, tmp_path / "universal.safetensors")
    assert load_upsampler(weights).channels is None
    with pytest.raises(UpsamplerError, match="single backbone"):
        train(cache, backbones=[PatchBackbone(), PatchBackbone("other")], layer="block 0")


def test_the_files_hold_the_weights_the_report_and_the_curve(cache, tmp_path):
    result = train(cache, steps=4)
    weights, facts, curve = save_training(result, tmp_path / "out.safetensors", data="four pictures")
    loaded = load_upsampler(weights)
    for name, value in result.stack.state_dict().items():
        assert torch.equal(loaded.stack.state_dict()[name], value)
    report = json.loads(facts.read_text())
    assert report["title"] == "JBU for patches, block 0"
    assert report["data"] == "four pictures"
    assert report["recipe"]["name"] == "default"
    assert report["steps"] == 4
    assert len(report["curve"]) == 3
    assert set(report["held_out_reprojection_error"]) == {"start", "stack", "bilinear", "classical", "directions"}
    assert loaded.provenance["backbone"] == "patches"
    with pillow.open(curve) as picture:
        assert picture.size == (960, 540)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png", "out.safetensors"]


def test_a_normalising_recipe_saves_its_norm(cache, tmp_path):
    result = train(cache, replace(QUICK, normalise=True))
    weights, _, _ = save_training(result, tmp_path / "normed.safetensors")
    assert load_upsampler(weights).norm is not None


def test_weights_are_for_features_as_the_backbone_gives_them(cache):
    """The error of the saved stack, taken in the plain way on unscaled features, is the one that was measured."""
    subject = trainer(cache, replace(QUICK, rates=Rates(feature_correction=1e-2)))
    result = subject.run(steps=6, measure_every=3)
    errors = []
    from test_training_objective import normalised

    from featup_app.multiview import box_average

    for picture in subject.sets[0].held_out.pictures:
        with torch.no_grad():
            upsampled = result.stack(picture.features()[None], normalised(picture.guidance()[None]))[0]
        for index, jitter in enumerate(picture.jitters):
            seen = box_average(jitter.sample(upsampled, jitter.size_hw), picture.grid_hw)
            errors += relative_errors(seen[None], picture.view_features([index])).tolist()
    assert result.figures["stack"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_a_curve_of_one_point_is_drawn(cache):
    result = train(cache, steps=1, measure_every=5)
    one = replace(result, curve=result.curve[:1], baselines={})
    with pillow.open(BytesIO(draw_curve(one))) as picture:
        assert picture.mode == "RGB"


def test_a_tenth_of_the_images_is_kept_back():
    trained, kept = split_held_out(40, 0)
    assert len(kept) == 4
    assert sorted([*trained, *kept]) == list(range(40))
    assert split_held_out(40, 0) == (trained, kept)
    assert split_held_out(40, 1) != (trained, kept)
    assert split_held_out(1, 0) == ([0], [0])


def test_images_are_found_in_files_and_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.JPG", "deep/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path / "b.png", tmp_path])
    assert [path.name for path in found] == ["b.png", "a.JPG", "c.webp"]
    with pytest.raises(UpsamplerError, match="no image and no folder"):
        find_images([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UpsamplerError, match="holds no images"):
        find_images([tmp_path / "empty"])
