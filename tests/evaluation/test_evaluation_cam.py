"""Class activation maps judged by a classifier: the figures against their definitions, the maps against other programs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from evaluation_pictures import write_photos

import featup_app.backbones.loading as loading
from featup_app.backbones import Backbone, find_backbone, load_backbone
from featup_app.base.errors import BackboneError, EvaluationError
from featup_app.evaluation import Plan, find_task, parse_methods, photos
from featup_app.evaluation.explanations import Confidence, coherency
from featup_app.evaluation.layouts import open_dataset
from featup_app.evaluation.methods import PreparedMethod
from featup_app.evaluation.records import Records
from featup_app.images import image_from_array, load_image, sample_images
from featup_app.lenses.masking import mask_of, masked_picture, picture_for_classifier

SIZE = "96"


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return load_backbone("tf_efficientnet_lite0", device="cpu")


@pytest.fixture
def folder(tmp_path):
    return write_photos(tmp_path / "photos", (96, 128))


def evaluated(folder, out, lite, methods="lowres,bilinear", protocols=("hard", "soft")):
    plan = Plan(lite, parse_methods(methods), photos(folder), size=SIZE, protocols=protocols)
    with Records(out) as records:
        return find_task("cam").evaluate(plan, records, out)


def test_figures_are_their_definitions():
    whole, masked = np.array([0.8, 0.5, 0.1, 0.9]), np.array([0.4, 0.75, 0.1, 0.0])
    found = Confidence(whole, masked, np.array([0.5, 0.25, 1.0, 0.0]), np.array([0.75, 1.0, 1.0, 0.5]))
    assert found.drops == pytest.approx([0.5, 0, 0, 1])
    assert found.increases.tolist() == [0, 1, 0, 0]
    assert found.gains == pytest.approx([0, 0.5, 0, 0])
    assert found.adcc == pytest.approx([3 / (1 / 0.75 + 2 + 2), 3 / (1 + 1 / 0.75 + 1), 0, 0])
    assert Confidence(whole, masked, whole).adcc is None
    assert Confidence(np.array([1.0]), np.array([1.0]), np.array([0.5])).gains.tolist() == [0]


def test_masks_keep_what_speaks_for_the_class():
    values = torch.tensor([[-1.0, 0.0], [1.0, 4.0]])
    assert mask_of(values, hard=True).tolist() == [[0, 0], [1, 1]]
    assert mask_of(values, hard=False).tolist() == [[0, 0], [0.25, 1]]
    assert mask_of(-values.abs(), hard=False).tolist() == [[0, 0], [0, 0]]
    picture = image_from_array(np.full((2, 2, 3), 200, np.uint8))
    masked = masked_picture(picture, mask_of(values, hard=False), (0.0, 0.0, 0.0)).pixels
    assert masked[:, :, 0].tolist() == [[0, 0], [50, 200]]
    masked = masked_picture(picture, mask_of(values, hard=False), (0.0, 0.2, 0.4)).pixels
    assert masked[0, 0].tolist() == [0, 51, 102]
    assert masked[1, 1].tolist() == [200, 200, 200]


def test_coherency_is_a_correlation():
    one = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    assert coherency(one, 3 * one) == pytest.approx(1)
    assert coherency(one, 1 - one) == pytest.approx(0, abs=1e-6)
    other = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    expected = np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1]
    assert coherency(one, other) == pytest.approx((1 + expected) / 2, abs=1e-6)
    assert coherency(one, torch.zeros(8, 8)) == 0


def test_maps_of_a_linear_head_are_those_of_another_program(lite):
    cams = pytest.importorskip("pytorch_grad_cam", reason="the package grad-cam is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    picture = picture_for_classifier(lite, load_image(sample_images()[0]), SIZE)
    inputs = lite.normalised(lite.resized(picture, picture.size_hw)[None]).requires_grad_()
    index = int(lite.logits(picture, size=picture.size_hw).argmax())
    layer, weights = lite.class_weights(picture, [index], size=picture.size_hw)
    features = lite.extract(picture, size=picture.size_hw, layer=layer).data
    own = torch.einsum("c,chw->hw", weights[0], features).clamp(min=0)
    with cams.GradCAM(model=lite.model, target_layers=[lite.model.bn2]) as other:
        theirs = other(input_tensor=inputs, targets=[ClassifierOutputTarget(index)])
        activations = other.activations_and_grads.activations[0]
        gradients = other.activations_and_grads.gradients[0]
    torch.testing.assert_close(features, activations[0], atol=1e-4, rtol=1e-4)
    cells = features.shape[1] * features.shape[2]
    torch.testing.assert_close(weights[0], gradients[0].mean((1, 2)) * cells, atol=1e-5, rtol=1e-4)
    low = torch.einsum("c,chw->hw", gradients[0].mean((1, 2)), activations[0]).clamp(min=0)
    torch.testing.assert_close(own / own.max(), low / low.max(), atol=1e-4, rtol=1e-3)
    assert theirs.shape[1:] == picture.size_hw


@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
def test_odds_weigh_a_class_against_the_others(architecture):
    torch.manual_seed(0)
    info = dataclasses.replace(find_backbone("resnet50.a1_in1k"), name=architecture, architecture=architecture)
    backbone = Backbone(loading.build(architecture, classes=5), info)
    picture = image_from_array(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    layer = "stage 4" if architecture == "resnet18" else "attention input"
    scores = backbone.logits(picture, size=(64, 96)).double()
    rows = backbone.class_weights(picture, range(5), size=(64, 96), layer=layer)[1].double()
    found = backbone.class_weights(picture, [1, 3], size=(64, 96), layer=layer, odds=True)[1].double()
    for weights, number in zip(found, (1, 3), strict=True):
        others = [other for other in range(5) if other != number]
        shares = torch.softmax(scores[others], 0)
        torch.testing.assert_close(weights, rows[number] - shares @ rows[others], atol=1e-6, rtol=1e-4)


def test_the_task_measures_every_method_and_protocol(tmp_path, folder, lite):
    report = evaluated(folder, tmp_path / "report", lite, "lowres,bilinear,jbu", ("hard", "soft", "soft-odds-mean"))
    assert [(row.method, row.protocol) for row in report.rows[:4]] == [
        ("lowres", "hard"),
        ("bilinear", "hard"),
        ("jbu", "hard"),
        ("lowres", "soft"),
    ]
    assert report.settings["layer"] == "head"
    for row in report.rows:
        whole, masked = np.array(row.details["whole"]), np.array(row.details["masked"])
        assert row.figure == pytest.approx(100 * np.mean(np.maximum(0, whole - masked) / whole))
        assert row.further["average increase"] == pytest.approx(100 * np.mean(masked > whole))
        assert set(row.further) == {name for name, _ in report.further}
        assert 0 < row.further["complexity"] <= 100
        assert 0 < row.further["coherency"] <= 100
        assert 0 < row.pictures == 2
    soft = {row.method: row for row in report.rows if row.protocol == "soft"}
    assert soft["bilinear"].difference is None
    assert soft["lowres"].difference == pytest.approx(soft["lowres"].figure - soft["bilinear"].figure)
    assert soft["jbu"].details["identity"]["upsampler"]["channels"] is None, (
        "stages alone: the head's features are its own"
    )
    json.dumps(report.as_dict(), allow_nan=False)
    assert evaluated(folder, tmp_path / "again", lite).rows[0].figure == report.rows[0].figure


def test_a_method_makes_one_field_of_a_picture(tmp_path, folder, lite, monkeypatch):
    made = []
    field = PreparedMethod.field

    def counted(method, features, *arguments):
        made.append(method.label)
        return field(method, features, *arguments)

    monkeypatch.setattr(PreparedMethod, "field", counted)
    monkeypatch.setattr(PreparedMethod, "fitted", True)
    report = evaluated(folder, tmp_path / "report", lite)
    assert sorted(made) == ["bilinear", "bilinear", "lowres", "lowres"]
    assert all(row.further["ADCC"] is None for row in report.rows), "masked pictures are not fitted"


def test_pictures_that_the_classifier_gets_wrong_are_set_aside(tmp_path, folder, lite):
    picture = picture_for_classifier(lite, load_image(sorted(folder.iterdir())[0]), SIZE)
    index = int(lite.logits(picture, size=picture.size_hw).argmax())
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    for number, path in enumerate(sorted(folder.iterdir())):
        place = tmp_path / "classes" / (names[index] if number == 0 else "n01440764")
        place.mkdir(parents=True)
        path.rename(place / path.name)
    data = open_dataset(tmp_path / "classes")
    plan = Plan(lite, parse_methods("lowres"), data, size=SIZE)
    with Records(tmp_path / "report") as records:
        report = find_task("cam").evaluate(plan, records, tmp_path / "report")
    assert report.settings["set_aside"] == 1
    assert report.rows[0].pictures == 1
    only_wrong = dataclasses.replace(data, items=tuple(item for item in data.items if item.truth == "n01440764"))
    with (
        Records(tmp_path / "report") as records,
        pytest.raises(EvaluationError, match="gets every picture of"),
    ):
        find_task("cam").evaluate(dataclasses.replace(plan, data=only_wrong), records, tmp_path / "report")


def test_a_backbone_without_classes_says_so(tmp_path, folder):
    dino = load_backbone("dinov2-s14-imgfocus", device="cpu")
    with pytest.raises(BackboneError, match="tells none apart"):
        evaluated(folder, tmp_path / "report", dino)
