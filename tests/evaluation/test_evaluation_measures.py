"""Reprojection and segmentation scores with a simple backbone, whose exact results are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featup_app.base.errors import EvaluationError, UpsamplerError
from featup_app.evaluation import (
    Frame,
    MethodChoice,
    fit_lowres_probes,
    fit_upsampled_probes,
    parse_methods,
    score_segmentation,
)
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.probe_files import read_probes, write_probes
from featup_app.evaluation.records import Records, configuration_key
from featup_app.evaluation.report import REPORT_FILES, Report, Row, write_report
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.fields.field import LinearField
from featup_app.fields.lowres import LowResField
from featup_app.images import image_from_array
from featup_app.multiview import box_average, held_out_views, identity_jitter, reprojection_error

PATCH = 4


class Averaging:
    """A backbone whose features are the mean colours of 4 x 4 patches, and their sum: the image itself is the perfect field."""

    def resized(self, image, size):
        assert size == image.size_hw
        return torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float() / 255

    def features(self, batch, layer=None):
        colours = torch.nn.functional.avg_pool2d(batch, PATCH)
        return torch.cat([colours, colours.sum(1, keepdim=True)], 1)


class PerfectField(LinearField):
    """A field with the exact features of every pixel."""

    method = "perfect"

    def _upsample(self, source, size, region, progress):
        raise NotImplementedError

    def project(self, matrix, bias=None, *, size, region=None, progress=None):
        pixels = Averaging().resized(self.coarse.image, size)
        return torch.einsum("kc,chw->khw", matrix, torch.cat([pixels, pixels.sum(0, keepdim=True)]))

    def bytes_per_pixel(self, channels):
        return 4.0

    def settings(self):
        return {}


def made_features(size=(24, 32), seed=0, smooth=3):
    noise = torch.rand(1, 3, size[0] // smooth, size[1] // smooth, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(noise, size, mode="bilinear")[0]
    image = image_from_array((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    backbone = Averaging()
    data = backbone.features(backbone.resized(image, size)[None])[0]
    geometry = Geometry(size, size, (size[0] // PATCH, size[1] // PATCH))
    return FeatureMap(data, geometry, "layer", image, backbone)


def test_the_perfect_field_explains_every_view_and_others_do_not():
    features = made_features(smooth=8)
    views = held_out_views(features)
    assert views.features.shape == (16, 4, 6, 8)
    perfect = reprojection_error(PerfectField(features), views)
    assert len(perfect.per_view) == 16
    assert perfect.mean < 1e-9, "look-up and interpolation commute, so only rounding remains"
    for name in ("lowres", "bilinear"):
        assert 0.01 < reprojection_error(upsample(features, method=name), views).mean < 0.1


def test_views_are_the_same_for_a_seed_and_are_cancelled():
    features = made_features()
    one, two = held_out_views(features, count=3), held_out_views(features, count=3)
    assert one.jitters == two.jitters
    assert torch.equal(one.features, two.features)
    assert held_out_views(features, count=3, seed=1).jitters != one.jitters
    assert {jitter.padding for jitter in one.jitters} == {3}, "30 pixels of 224"

    def stop(words, done, total, stage=None):
        raise InterruptedError(words)

    with pytest.raises(InterruptedError, match="held-out"):
        held_out_views(features, progress=stop)
    with pytest.raises(InterruptedError, match="held-out"):
        reprojection_error(upsample(features, method="bilinear"), one, progress=stop)


def test_the_error_is_the_plain_formula():
    features = made_features(size=(24, 24))
    views = held_out_views(features, count=4)
    field = upsample(features, method="bilinear")
    drawn = field.features(size=(24, 24))
    expected = []
    for jitter, truth in zip(views.jitters, views.features, strict=True):
        seen = box_average(jitter.sample(drawn, (24, 24)), (6, 6))
        variance = (truth - truth.mean((1, 2), keepdim=True)).square().sum()
        expected.append(float((seen - truth).square().sum() / variance))
    assert reprojection_error(field, views).per_view == pytest.approx(expected, rel=1e-4)


def test_the_unmoved_view_gives_back_the_cells_of_the_nearest_field():
    features = made_features()
    still = held_out_views(features, count=1)
    still = type(still)((identity_jitter((24, 32)),), features.data[None], (24, 32))
    assert reprojection_error(LowResField(features), still).mean < 1e-12


def test_features_of_a_file_cannot_be_measured_and_other_channels_do_not_fit():
    features = made_features()
    views = held_out_views(features, count=1)
    from_file = FeatureMap(features.data, features.geometry, "layer", features.image)
    with pytest.raises(EvaluationError, match="extract them again"):
        held_out_views(from_file)
    fewer = FeatureMap(features.data[:2], features.geometry, "layer", features.image)
    with pytest.raises(ValueError, match="2 channels"):
        reprojection_error(upsample(fewer, method="bilinear"), views)


# -- segmentation ------------------------------------------------------------------------------------------------------


def made_frames(count=6):
    """Class 1 for pixels with more red than green, else class 0."""
    frames = []
    for seed in range(count):
        features = made_features(seed=seed, smooth=4)
        pixels = features.image.pixels.astype(int)
        labels = (pixels[..., 0] > pixels[..., 1]).astype(np.int16)
        labels[:2] = -1
        frames.append(Frame(str(seed), features, torch.from_numpy(labels)))
    return frames


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_transferred_probes_label_better_through_smoother_fields(kind):
    frames = made_frames()
    probes = fit_lowres_probes(frames[:4], count=4, classes=2, folds=2, kind=kind)
    assert len(probes.probes) == 3
    scores = {
        name: score_segmentation(lambda features, name=name: upsample(features, method=name), frames[4:], probes)
        for name in ("lowres", "bilinear")
    }
    perfect = score_segmentation(PerfectField, frames[4:], probes)
    assert perfect.miou > 0.8
    assert scores["bilinear"].miou > scores["lowres"].miou > 0.4
    assert scores["lowres"].confusions.shape == (2, 3, 2, 2)
    assert scores["lowres"].confusions[:, 0].sum() == 2 * 22 * 32, "unlabelled pixels do not count"
    assert scores["lowres"].fold_miou.shape == (2,)
    resampled = scores["lowres"].bootstrapped_miou(seed=1)
    assert resampled.min() <= scores["lowres"].miou <= resampled.max()
    again = score_segmentation(lambda features: upsample(features, method="lowres"), frames[4:], probes)
    assert np.array_equal(again.confusions, scores["lowres"].confusions)


def test_trained_probes_are_those_of_all_upsampled_pixels():
    frames = made_frames()
    probes = fit_upsampled_probes(
        lambda features: upsample(features, method="bilinear"), frames[:4], count=4, classes=2, folds=2
    )
    score = score_segmentation(lambda features: upsample(features, method="bilinear"), frames[4:], probes)
    assert score.miou > 0.5
    assert score.accuracy > score.miou


def test_probes_need_folds_and_labels(tmp_path):
    frames = made_frames(2)
    with pytest.raises(EvaluationError, match="cannot be parted into 3 folds"):
        fit_lowres_probes(frames, count=2, classes=2)
    empty = [Frame(frame.name, frame.features, torch.full_like(frame.labels, -1)) for frame in frames]
    for kind in ("ridge", "logistic"):
        with pytest.raises(EvaluationError, match="labelled pixels"):
            fit_lowres_probes(empty, count=2, classes=2, folds=2, kind=kind)
    probes = fit_lowres_probes(frames, count=2, classes=2, folds=2)
    write_probes(probes, tmp_path / "probes.npz")
    read = read_probes(tmp_path / "probes.npz")
    assert read is not None
    assert (read.classes, read.trained_on) == (2, probes.trained_on)
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(read.probes, probes.probes, strict=True))
    (tmp_path / "probes.npz").write_bytes(b"PK\x03\x04 cut short")
    assert read_probes(tmp_path / "probes.npz") is None
    assert read_probes(tmp_path / "none.npz") is None


# -- methods, records, reports -----------------------------------------------------------------------------------------


def test_methods_as_a_person_writes_them(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    assert parse_methods(f" lowres, jbu,jbu=classical ,jbu={weights}") == (
        MethodChoice("lowres", "lowres"),
        MethodChoice("jbu", "jbu"),
        MethodChoice("jbu=classical", "jbu", "classical"),
        MethodChoice(f"jbu={weights}", "jbu", str(weights)),
    )
    assert parse_methods("bilinear,jbu", upsampler="classical")[1].upsampler == "classical"
    for text, words in (
        ("lowres=classical", "has no weights to choose"),
        ("jbu=", "names no weights"),
        ("jbu=missing.pth", "There is no file"),
        ("jbu,jbu", "twice"),
        (" , ", "no method to evaluate"),
    ):
        with pytest.raises(EvaluationError, match=words):
            parse_methods(text)
    with pytest.raises(UpsamplerError, match="no upsampling method"):
        parse_methods("magic")


def test_a_prepared_method_makes_fields_and_says_what_it_is():
    features = made_features()
    method = parse_methods("jbu=classical")[0].prepare("none", "layer", 4)
    assert method.field(features).settings()["kernel"] == "classical"
    assert json.loads(method.key()) == {"method": "jbu", "kernel": "classical"}
    assert method.source(features) is features
    normed = PreparedMethod("n", "lowres", {}, {}, "norm", lambda given: SimpleNamespace(data=given.data * 2))
    assert torch.equal(normed.source(features).data, features.data * 2)


def test_records_survive_a_run_that_was_killed(tmp_path):
    key = configuration_key({"a": 1})
    assert key != configuration_key({"a": 2})
    with Records(tmp_path / "new") as records:
        records.keep(key, "one", {"value": 1})
    path = tmp_path / "new" / "results.jsonl"
    path.write_text(path.read_text() + '{"configuration": "x", "pict')
    with Records(tmp_path / "new") as records:
        assert records.find(key, "one") == {"value": 1}
        assert records.find(key, "two") is None
        records.keep(key, "two", {"value": 2})
    with Records(tmp_path / "new") as records:
        assert records.find(key, "two") == {"value": 2}
    with Records(tmp_path / "new", fresh=True) as records:
        assert records.find(key, "two") is None


def test_a_report_is_two_files(tmp_path):
    rows = (
        Row("bilinear", "transfer", 0.5, 0.1, None, None, 0.2, 3),
        Row("jbu", "transfer", 0.6, 0.1, 0.1, (0.05, 0.15), 0.3, 3),
    )
    report = Report("seg", "mIoU", "3 folds", True, rows, (("one", "it is broken"),), {"seed": 0})
    files = write_report(report, tmp_path)
    assert [path.name for path in files] == list(REPORT_FILES)
    facts = json.loads(files[0].read_text())
    assert facts["rows"][1]["interval"] == [0.05, 0.15]
    assert facts["failures"] == [{"picture": "one", "reason": "it is broken"}]
    lines = files[1].read_text().splitlines()
    assert lines[1] == "bilinear,transfer,0.5,0.1,,,,0.2,3,,"
    assert len(lines) == 3
