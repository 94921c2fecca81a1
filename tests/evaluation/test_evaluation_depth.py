"""Depth probes: the arithmetic against plain formulas, and the tasks on scenes whose depths follow from their colours."""

from __future__ import annotations

import dataclasses
import json
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from featup_app.base.errors import EvaluationError
from featup_app.evaluation import Plan, find_task, parse_methods
from featup_app.evaluation.datasets import DEPTHS, Item
from featup_app.evaluation.depth import (
    DepthFrame,
    DepthScore,
    aligned,
    cell_depths,
    depth_figures,
    fit_by_gradient,
    fit_lowres_depth,
    fit_upsampled_depth,
    invariant_loss,
    load_depth_frame,
    normalised,
)
from featup_app.evaluation.layouts import open_dataset
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.records import Records
from featup_app.evaluation.segmentation import ProbeSet
from featup_app.evaluation.tasks.probing import crossed_splits
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array

PATCH = 4


class Averaging:
    """A backbone whose features are the mean colours of 4 x 4 patches."""

    name = "averaging"
    provenance = MappingProxyType({"weights_sha256": "none"})
    device = torch.device("cpu")

    def layer(self, wanted):
        return dataclasses.make_dataclass("Layer", ["name", "channels"])("colours", 3)

    def extract(self, image, *, size=None, layer=None, progress=None):
        pixels = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float() / 255
        data = torch.nn.functional.avg_pool2d(pixels, PATCH)
        geometry = Geometry(image.size_hw, image.size_hw, (data.shape[1], data.shape[2]))
        return FeatureMap(data, geometry, "colours", image, self)


def made_pixels(seed, size=(32, 48)):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    pixels = torch.nn.functional.interpolate(noise, size, mode="bilinear")[0]
    return (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def made_depths(pixels, scale=2.0, shift=1.0):
    """Metres: redder is farther, greener is nearer; a corner has no reading."""
    colours = pixels.astype(np.float64) / 255
    depths = shift + scale * (1 + colours[..., 0] - 0.5 * colours[..., 1])
    depths[:6, :6] = 0
    return depths.astype(np.float32)


def made_frames(count=4, scale=2.0):
    frames = []
    for seed in range(count):
        pixels = made_pixels(seed)
        features = Averaging().extract(image_from_array(pixels))
        depths = made_depths(pixels, scale=scale * (1 + seed), shift=seed)
        frames.append(DepthFrame(str(seed), features, torch.from_numpy(depths)))
    return frames


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of three frames; the unit of the second scene's depth files is a fifth of a millimetre."""
    for scene, unit in (("kitchen", 1000), ("office", 5000)):
        for index in range(3):
            pixels = made_pixels(index + (10 if scene == "office" else 0))
            for kind in ("color", "depth"):
                (tmp_path / "scenes" / scene / kind).mkdir(parents=True, exist_ok=True)
            pillow.fromarray(pixels).save(tmp_path / "scenes" / scene / "color" / f"{index}.png")
            stored = np.rint(made_depths(pixels) * unit).astype(np.uint16)
            pillow.fromarray(stored).save(tmp_path / "scenes" / scene / "depth" / f"{index}.png")
    return tmp_path / "scenes"


def opened(folder):
    return open_dataset(folder, kinds=(DEPTHS,), per_metre={"kitchen": 1000.0, "office": 5000.0})


def evaluated(name, plan, folder):
    with Records(folder) as records:
        return find_task(name).evaluate(plan, records, folder)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_cells_are_the_means_of_their_readings():
    depths = torch.tensor([[1.0, 3.0, 0, 0], [0, 2.0, 0, 0], [1, 1, 4, 0], [1, 1, 0, 0]])
    mean, share = cell_depths(depths, (2, 2))
    assert mean.tolist() == [[2, 0], [1, 4]]
    assert share.tolist() == [[0.75, 0], [1, 0.25]]
    mean, share = cell_depths(torch.tensor([[5.0] + [0.0] * 9]), (1, 1))
    assert (mean.item(), share.item()) == (0, 0), "a tenth of a cell does not represent it"
    mean, share = cell_depths(torch.full((7, 5), 3.0), (3, 2))
    torch.testing.assert_close(mean, torch.full((3, 2), 3.0))
    torch.testing.assert_close(share, torch.ones(3, 2))


def test_depths_of_a_picture_get_mean_zero_and_deviation_one():
    depths = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)) + 2
    weights = torch.rand(6, 8, generator=torch.Generator().manual_seed(1))
    weights[0] = 0
    found = normalised(depths, weights)
    assert float((found * weights).sum()) == pytest.approx(0, abs=1e-5)
    assert float((found.square() * weights).sum() / weights.sum()) == pytest.approx(1, abs=1e-5)
    assert (found[0] == 0).all()
    torch.testing.assert_close(found, normalised(5 * depths - 3, weights), atol=1e-4, rtol=1e-4)
    assert (normalised(torch.ones(2, 2), torch.ones(2, 2)) == 0).all()


def test_alignment_is_least_squares_and_never_turns_depths_round():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(50, generator=generator).double()
    predicted = truth + 0.3 * torch.randn(50, generator=generator)
    weights = torch.rand(50, generator=generator).double()
    matrix = torch.stack([predicted, torch.ones(50).double()], 1)
    root = weights.sqrt()[:, None]
    solution = torch.linalg.lstsq(root * matrix, root * truth[:, None]).solution
    torch.testing.assert_close(aligned(predicted, truth, weights), (matrix @ solution)[:, 0])
    turned = aligned(-truth, truth, torch.ones(50).double())
    torch.testing.assert_close(turned, truth.mean().expand(50))


def test_the_loss_does_not_see_scale_and_shift():
    generator = torch.Generator().manual_seed(0)
    predicted, depths = torch.randn(2, 8, 10, generator=generator), torch.randn(2, 8, 10, generator=generator)
    weights = torch.ones(2, 8, 10)
    loss = invariant_loss(predicted, depths, weights)
    assert loss.shape == (2,)
    assert float(loss.min()) > 0.1
    torch.testing.assert_close(invariant_loss(7 * predicted - 2, depths, weights), loss)
    torch.testing.assert_close(loss[:1], invariant_loss(predicted[:1], depths[:1], weights[:1]))
    assert float(invariant_loss(3 * depths + 1, depths, weights).max()) == pytest.approx(0, abs=1e-6)
    hidden = weights.clone()
    hidden[:, :, 5:] = 0
    changed = depths.clone()
    changed[:, :, 5:] += 9
    torch.testing.assert_close(invariant_loss(predicted, depths, hidden), invariant_loss(predicted, changed, hidden))


def test_figures_are_their_definitions():
    frame = made_frames(1)[0]
    probes = fit_lowres_depth([frame] * 3, count=3, metric=True)
    field = upsample(frame.features, method="bilinear")
    size = tuple(frame.target.shape)
    scores = field.project(probes.probes[0].weights, probes.probes[0].bias, size=size)[0]
    valid = frame.target > 0
    truth, predicted = frame.target[valid].numpy(), scores[valid].numpy()
    found = depth_figures(field, probes, frame.target, metric=True)
    assert found.shape == (4, 3)
    assert found[0, 0] == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)), rel=1e-5)
    ratios = np.maximum(predicted / truth, truth / predicted)
    assert found[0, 1] == pytest.approx(100 * np.mean(ratios > 1.25))
    assert found[0, 2] == pytest.approx(np.mean(np.abs(predicted - truth) / truth), rel=1e-5)
    slope, offset = np.polyfit(predicted, truth, 1)
    fitted = slope * predicted + offset
    assert depth_figures(field, probes, frame.target)[0, 0] == pytest.approx(
        np.sqrt(np.mean((fitted - truth) ** 2)), rel=1e-4
    )
    score = DepthScore(np.stack([found, found + 1]))
    assert score.means[0, 0] == pytest.approx(found[0, 0] + 0.5)
    resampled = score.bootstrapped(seed=0)
    assert found[0, 0] <= resampled.min() <= score.means[0, 0] <= resampled.max() <= found[0, 0] + 1


def descend_in(monkeypatch, *, steps):
    """Fewer steps for the probes that are fitted by gradient descent."""
    monkeypatch.setitem(fit_by_gradient.__kwdefaults__, "steps", steps)


# -- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ridge", "gradient"])
def test_probes_find_what_depth_depends_on_whatever_its_scale(kind, monkeypatch):
    descend_in(monkeypatch, steps=200)
    frames = made_frames(4)
    probes = fit_lowres_depth(frames, count=4, folds=2, kind=kind)
    assert len(probes.probes) == 3
    weights = probes.probes[0].weights[0]
    assert float(weights[1] / weights[0]) == pytest.approx(-0.5, abs=0.05)
    assert abs(float(weights[2] / weights[0])) < 0.05
    again = fit_lowres_depth(frames, count=4, folds=2, kind=kind)
    for one, two in zip(probes.probes, again.probes, strict=True):  # to the last digit
        assert torch.equal(one.weights, two.weights)
        assert torch.equal(one.bias, two.bias)
    other = made_frames(6)[5]
    nearest, bilinear = (
        depth_figures(upsample(other.features, method=name), probes, other.target)[0, 0]
        for name in ("lowres", "bilinear")
    )
    assert bilinear < nearest


def test_gradient_descent_ends_in_the_minimum():
    frames = made_frames(3)
    pictures = []
    for index, frame in enumerate(frames):
        target, share = cell_depths(frame.target, frame.features.geometry.grid_hw)
        pictures.append((index, frame.features.data, normalised(target, share), share))
    short, long = (fit_by_gradient(pictures, steps=steps).weights[0] for steps in (500, 2000))
    assert float(torch.nn.functional.cosine_similarity(short, long, dim=0)) > 0.9999
    other = fit_by_gradient(pictures, seed=1).weights[0]
    assert float(torch.nn.functional.cosine_similarity(short, other, dim=0)) > 0.9999, "whatever the start"


def test_probes_of_upsampled_features_use_every_pixel_with_a_reading():
    frames = made_frames(4)
    probes = fit_upsampled_depth(lambda features: upsample(features, method="bilinear"), frames, count=4, folds=2)
    figures = depth_figures(upsample(frames[0].features, method="bilinear"), probes, frames[0].target)
    assert figures[0, 0] < 0.25
    assert probes.trained_on == "upsampled features, ridge"


def test_what_cannot_be_fitted_or_read_is_said(tmp_path):
    frames = made_frames(2)
    with pytest.raises(EvaluationError, match="cannot be parted into 3 folds"):
        fit_lowres_depth(frames, count=2)
    empty = [DepthFrame(frame.name, frame.features, torch.zeros_like(frame.target)) for frame in frames]
    for kind in ("ridge", "gradient"):
        with pytest.raises(EvaluationError, match="cannot be fitted"):
            fit_lowres_depth(empty, count=2, folds=2, kind=kind)
    with pytest.raises(EvaluationError, match="no training picture has readings"):
        fit_by_gradient([])
    pillow.fromarray(made_pixels(0)).save(tmp_path / "picture.png")
    for values, words in (
        (np.zeros((32, 48), np.uint16), "hold no reading"),
        (np.ones((16, 24), np.uint16), "of the same size"),
    ):
        pillow.fromarray(values).save(tmp_path / "depth.png")
        item = Item("one", tmp_path / "picture.png", tmp_path / "depth.png")
        with pytest.raises(EvaluationError, match=words):
            load_depth_frame(item, Averaging(), size=None, layer=None)


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_every_scene_is_measured_with_probes_of_the_others(scenes, tmp_path):
    data = opened(scenes)
    plan = Plan(Averaging(), parse_methods("lowres,bilinear"), data, folds=3, cross="scenes")
    splits = crossed_splits(plan)
    assert [(len(split.train.items), sorted(split.names)) for split in splits] == [
        (3, ["kitchen/0", "kitchen/1", "kitchen/2"]),
        (3, ["office/0", "office/1", "office/2"]),
    ]
    for split in splits:
        assert not {item.name for item in split.train.items} & split.names
    alone = dataclasses.replace(data, items=data.items[:3])
    with pytest.raises(EvaluationError, match="all of one scene"):
        crossed_splits(dataclasses.replace(plan, data=alone))
    assert len(crossed_splits(dataclasses.replace(plan, train=alone))) == 1
    with pytest.raises(EvaluationError, match="crossed by"):
        dataclasses.replace(plan, cross="chance")

    protocols = ("transfer", "trained", "metric")
    report = evaluated("depth", dataclasses.replace(plan, protocols=protocols), tmp_path / "report")
    assert [(row.method, row.protocol) for row in report.rows] == [
        (method, protocol) for protocol in protocols for method in ("lowres", "bilinear")
    ]
    for row in report.rows:
        assert 0 < row.figure < 0.5
        assert row.pictures == 6
        assert row.figure == pytest.approx(np.mean([figures[0] for figures in row.details["per_picture"]]))
        assert row.further["above 1.25 (%)"] + row.further["within 1.25 (%)"] == pytest.approx(100)
    assert report.rows[0].difference == pytest.approx(report.rows[0].figure - report.rows[1].figure)
    assert len(list((tmp_path / "report").glob("probes-*.npz"))) == 2 * (1 + 2 + 1)
    json.dumps(report.as_dict(), allow_nan=False)


def test_with_few_scenes_parts_of_every_scene_are_left_out(scenes):
    plan = Plan(Averaging(), parse_methods("lowres"), opened(scenes), folds=3)
    splits = crossed_splits(plan)
    assert [sorted(split.names) for split in splits] == [[f"kitchen/{index}", f"office/{index}"] for index in range(3)]
    assert [item.name for item in splits[0].train.items] == ["kitchen/1", "office/1", "kitchen/2", "office/2"]
    alone = dataclasses.replace(plan.data, items=plan.data.items[:1])
    with pytest.raises(EvaluationError, match="there are too few"):
        crossed_splits(dataclasses.replace(plan, data=alone))


def test_the_same_seed_gives_the_same_digits(scenes, tmp_path):
    plan = Plan(
        Averaging(),
        parse_methods("lowres,bilinear"),
        opened(scenes),
        cross="scenes",
        seed=3,
        protocols=("transfer", "trained"),
    )
    reports = [evaluated("depth", plan, tmp_path / name) for name in ("one", "two")]
    one, two = ([(row.figure, row.spread, row.interval, row.further) for row in report.rows] for report in reports)
    assert one == two


def test_preservation_is_the_transfer_minus_bilinear(scenes, tmp_path, monkeypatch):
    descend_in(monkeypatch, steps=40)  # the figures that are compared are those of ridges
    plan = Plan(Averaging(), parse_methods("lowres"), opened(scenes), cross="scenes")
    transfer = evaluated("depth", dataclasses.replace(plan, methods=parse_methods("lowres,bilinear")), tmp_path / "out")
    measured = (tmp_path / "out" / "results.jsonl").read_text().count("\n")
    report = evaluated("preserve", plan, tmp_path / "out")
    assert [(row.method, row.protocol) for row in report.rows] == [
        ("bilinear", "ridge"),
        ("lowres", "ridge"),
        ("bilinear", "gradient"),
        ("lowres", "gradient"),
    ]
    assert report.rows[0].figure == 0
    assert report.rows[1].figure == pytest.approx(transfer.rows[0].figure - transfer.rows[1].figure)
    assert not report.higher_is_better
    lines = (tmp_path / "out" / "results.jsonl").read_text().count("\n")
    assert lines == measured + 12, "results of the task depth with ridges are not measured again"
    with pytest.raises(EvaluationError, match='no probe "logistic" for depths'):
        evaluated("preserve", dataclasses.replace(plan, protocols=("logistic",)), tmp_path / "out")


def test_a_method_makes_one_field_of_a_picture(scenes, tmp_path, monkeypatch):
    made = []
    field = PreparedMethod.field

    def counted(method, features, *arguments):
        made.append((method.label, features.image.name))
        return field(method, features, *arguments)

    monkeypatch.setattr(PreparedMethod, "field", counted)
    plan = Plan(Averaging(), parse_methods("lowres"), opened(scenes), cross="scenes", protocols=("transfer", "metric"))
    evaluated("depth", plan, tmp_path / "report")
    assert len(made) == 6
    made.clear()
    monkeypatch.setattr(PreparedMethod, "fitted", True)
    evaluated("depth", dataclasses.replace(plan, cross="frames", protocols=("trained",)), tmp_path / "report")
    assert len(made) == 6, "expensive fields are computed once, for any number of probes"


def test_probe_sets_of_depths_are_kept_like_others(tmp_path):
    from featup_app.evaluation.probe_files import read_probes, write_probes

    probes = fit_lowres_depth(made_frames(3), count=3)
    write_probes(probes, tmp_path / "probes.npz")
    read = read_probes(tmp_path / "probes.npz")
    assert isinstance(read, ProbeSet)
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(read.probes, probes.probes, strict=True))
