"""Upsamplers inside a network: gradients pass, training lowers the loss, and the task gives a table."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from evaluation_pictures import write_halves

from featup_app.backbones import load_backbone
from featup_app.base.errors import EvaluationError
from featup_app.evaluation import MethodChoice, Plan, labelled_images, parse_methods
from featup_app.evaluation.drop_ins import DROP_INS, GuidedUpsampling, drop_in, operations, trained_parameters
from featup_app.evaluation.end_to_end import (
    WIDTH,
    Scene,
    SegmentationHead,
    chosen_layers,
    frame_confusion,
    load_scene,
    train_head,
)
from featup_app.evaluation.records import Records
from featup_app.evaluation.statistics import mean_iou
from featup_app.evaluation.tasks import find_task
from featup_app.fields import JBUStack
from featup_app.ops import native_status
from featup_app.training.classical_start import start_classical

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def there(name: str) -> None:
    """Skip the test if this version lacks a method."""
    if name not in ("lowres", "bilinear", "jbu") and not importlib.util.find_spec(f"featup_app.fields.{name}"):
        pytest.skip(f"this version has no method {name}")


@pytest.mark.parametrize("name", [*DROP_INS, "jbu=classical"])
def test_every_drop_in_upsamples_sixteen_times_and_lets_gradients_through(name):
    there(name.partition("=")[0])
    module = drop_in(MethodChoice(name, name.partition("=")[0], name.partition("=")[2] or None), 8)
    source = torch.randn(2, 8, 3, 4, generator=generator(), requires_grad=True)
    guidance = torch.randn(2, 3, 48, 64, generator=generator(1))
    result = module.train()(source, guidance)
    assert result.shape == (2, 8, 48, 64)
    result.square().mean().backward()
    assert source.grad.abs().min() > 0
    reached = [
        p for p in module.parameters() if p.requires_grad and p.grad is not None and bool(p.grad.abs().sum() > 0)
    ]
    assert bool(reached) == (name not in ("lowres", "bilinear", "jbu=classical"))
    assert (trained_parameters(module) > 0) == bool(reached)


def test_the_guided_drop_in_is_the_stack():
    stack = JBUStack(8)
    start_classical(stack)
    source, guidance = torch.randn(1, 8, 4, 5, generator=generator()), torch.rand(1, 3, 64, 80, generator=generator(1))
    module = GuidedUpsampling(stack.eval()).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(source, guidance), stack(source, guidance), atol=2e-4, rtol=1e-3)


def test_methods_that_cannot_stand_inside_a_network_say_so():
    with pytest.raises(EvaluationError, match="cannot stand inside"):
        drop_in(MethodChoice("implicit", "implicit"), 8)
    with pytest.raises(EvaluationError, match="leave them out"):
        drop_in(MethodChoice("carafe=a.safetensors", "carafe", "a.safetensors"), 8)


def test_operations_of_a_head_are_counted():
    if native_status().backend == "torch":
        pytest.skip("operations are counted by the compiled operators, which are not there")
    inputs = ([torch.zeros(1, 5, 4, 6)], torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    plain = SegmentationHead([5], 3, drop_in(MethodChoice("bilinear", "bilinear"), WIDTH)).eval()
    convolutions = 2 * (24 * (5 * WIDTH + WIDTH * WIDTH) + 64 * 96 * WIDTH * 3)
    assert operations(plain, *inputs) == convolutions
    guided = SegmentationHead([5], 3, drop_in(MethodChoice("jbu", "jbu"), WIDTH)).eval()
    pixels = sum(4**level * 24 for level in (1, 2, 3, 4))
    windows = 2 * 49 * (WIDTH + 32) * pixels
    assert windows < operations(guided, *inputs) - convolutions < 2.5 * windows


def made_scene(seed: int, kinds: int = 3) -> Scene:
    """A scene of blobs whose colours and features determine their classes."""
    noise = torch.rand(1, kinds, 4, 5, generator=generator(seed))
    classes = torch.nn.functional.interpolate(noise, (64, 96), mode="bicubic")[0].argmax(0)
    palette = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=torch.uint8)
    picture = palette[classes].permute(2, 0, 1).contiguous()
    shares = torch.nn.functional.one_hot(classes, kinds).permute(2, 0, 1).float()
    coarse = torch.nn.functional.avg_pool2d(shares, 16)
    layers = []
    for number in (1, 2):
        mix = torch.randn(6, kinds, generator=generator(100 + number))
        values = torch.einsum("ck,khw->chw", mix, coarse)
        layers.append(torch.stack([values, values.flip(-1)]).half())
    labels = classes.to(torch.int16)
    return Scene(f"scene {seed}", tuple(layers), picture, labels, labels)


def trained_figure(method: str, steps: int = 60) -> float:
    train, scored = [made_scene(seed) for seed in range(6)], [made_scene(seed) for seed in (50, 51, 52)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SegmentationHead([6, 6], 3, drop_in(parse_methods(method)[0], WIDTH))
    network.standardise(train)
    train_head(network, train, steps=steps, seed=0)
    return float(mean_iou(sum(frame_confusion(network, scene, 3) for scene in scored)))


def test_training_learns_and_guidance_helps():
    lowres, bilinear, guided = (trained_figure(method) for method in ("lowres", "bilinear", "jbu=classical"))
    assert 0.5 < lowres < bilinear < guided
    assert guided > bilinear + 0.05


def test_a_seed_gives_the_same_figure_and_leaves_chance_to_others():
    before = torch.random.get_rng_state()
    first, second = trained_figure("bilinear", 5), trained_figure("bilinear", 5)
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def street(tmp_path):
    return write_halves(tmp_path)


@pytest.mark.parametrize("name", ["dinov2-s14-imgfocus", "tf_efficientnet_lite0"])
def test_scenes_hold_layers_of_both_kinds_of_backbones(street, name):
    backbone = load_backbone(name)
    layers = chosen_layers(backbone)
    assert layers[-1] == backbone.layer(None).name or not backbone.is_transformer
    scene = load_scene(labelled_images(street / "val").items[0], backbone, layers, size="64x96", mirrored=True)
    rows, columns = scene.grid_hw
    assert len(scene.layers) == len(layers) > 1
    assert {tuple(values.shape[-2:]) for values in scene.layers} == {(rows, columns)}
    assert scene.guidance.shape == (3, 16 * rows, 16 * columns)
    assert scene.coarse_labels.shape == (16 * rows, 16 * columns)
    assert scene.labels.shape == (64, 96)
    single = backbone.features(
        backbone.resized(labelled_images(street / "val").items[0].image(), "64x96")[None], layers[0]
    )
    if single.shape[-2:] == (rows, columns):
        torch.testing.assert_close(scene.layers[0][:1].float(), single, atol=2e-2, rtol=1e-2)


def test_the_task_makes_a_table_and_goes_on_where_it_was(street, tmp_path):
    (street / "val" / "images" / "1.png").write_bytes(b"no picture")
    plan = Plan(
        backbone=load_backbone("dinov2-s14-imgfocus"),
        methods=(*parse_methods("lowres,bilinear,jbu"), MethodChoice("implicit", "implicit")),
        data=labelled_images(street / "val"),
        train=labelled_images(street / "train"),
        size="56x84",
        repeats=2,
        steps=4,
    )
    task, folder = find_task("end2end"), tmp_path / "report"
    with Records(folder) as records:
        report = task.evaluate(plan, records, folder)
    assert [row.method for row in report.rows] == ["lowres", "bilinear", "jbu"]
    assert {name for name, _ in report.failures} == {"1", "implicit"}
    bilinear, guided = report.rows[1:]
    assert bilinear.difference is None
    assert guided.difference == pytest.approx(guided.figure - bilinear.figure)
    assert guided.interval[0] <= guided.interval[1]
    assert guided.further["parameters (thousands)"] > bilinear.further["parameters (thousands)"]
    assert len(guided.details["seed_miou"]) == 2
    lines = (folder / "results.jsonl").read_text().count("\n")
    assert lines == 6
    with Records(folder) as records:
        again = task.evaluate(plan, records, folder)
    assert [row.figure for row in again.rows] == [row.figure for row in report.rows]
    with Records(folder) as records:
        more = task.evaluate(dataclasses.replace(plan, repeats=3), records, folder)
    assert (folder / "results.jsonl").read_text().count("\n") == 9, "seeds of the earlier run are not trained again"
    assert more.rows[0].details["seed_miou"][:2] == report.rows[0].details["seed_miou"]
