"""Every field answers a projection exactly as if the full upsampled features had been there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.features import FeatureMap, Geometry, Region
from featup_app.fields import METHODS, FeatureField, JBUStack, upsample
from featup_app.fields.finer import FinerField, FinerGrid
from featup_app.fields.implicit import FitRecipe, ImplicitField
from featup_app.fields.implicit.network import FourierNetwork
from featup_app.fields.implicit.start import Start
from featup_app.fields.implicit.views import Components
from featup_app.images import Image, image_from_array

VARIANTS = [
    *(method.name for method in METHODS if method.quick),
    "jbu learned",
    "large_image",
    "finer",
    "dip",
    "implicit",
]


class Patches:
    """A backbone whose features are random mixtures of the pixels of a patch."""

    stride = 14

    def __init__(self, channels: int) -> None:
        self._kernel = torch.randn(channels, 3, 14, 14, generator=torch.Generator().manual_seed(channels))

    def resized(self, image: Image, size: tuple[int, int]) -> torch.Tensor:
        pixels = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
        return F.interpolate(pixels, size, mode="bilinear")[0]

    def features(self, batch, layer, progress) -> torch.Tensor:
        return F.conv2d(batch, self._kernel, stride=14)


def make_field(
    variant: str,
    *,
    grid: tuple[int, int],
    image_hw: tuple[int, int],
    channels: int,
    seed: int,
    offset: tuple[float, float] = (0, 0),
) -> FeatureField:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (*image_hw, 3), generator=generator, dtype=torch.uint8).numpy()
    image = image_from_array(pixels)
    data = torch.randn(channels, *grid, generator=generator)
    geometry = Geometry(image_hw=image_hw, input_hw=(grid[0] * 14, grid[1] * 14), grid_hw=grid, offset_xy=offset)
    features = FeatureMap(data=data, geometry=geometry, layer="block 0", image=image, backbone=Patches(channels))
    if variant == "finer":  # of a few channels, from which all features are made
        values = torch.randn(2, 2 * grid[0] - 1, 2 * grid[1] - 1, generator=generator)
        weight, bias = torch.randn(channels, 2, generator=generator), torch.randn(channels, generator=generator)
        place = FinerGrid.from_first_cells(2)
        return FinerField(features, values, place, method="strided", settings={}, weight=weight, bias=bias)
    if variant == "implicit":
        return random_implicit(features, image, generator)
    if variant == "dip":
        return upsample(features, image, variant, steps=1)
    if variant == "jbu":
        return upsample(features, image, variant, kernel="classical")
    if variant != "jbu learned":
        return upsample(features, image, variant)
    stack = JBUStack(channels)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.1)
    return upsample(features, image, "jbu", stack=stack)


def random_implicit(features: FeatureMap, image: Image, generator: torch.Generator) -> ImplicitField:
    """A network with random weights, in the space of a few random directions, with or without a field to add to."""
    kind = ("mean", "bilinear")[int(torch.randint(2, (1,), generator=generator))]
    channels, recipe = features.channels, FitRecipe(waves=8, start=kind)
    count = max(1, channels // 2)
    network = FourierNetwork(recipe, count, features.geometry.grid_hw, generator)
    with torch.no_grad():
        network.last.weight.normal_(generator=generator)
    basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator)).Q[:, :count].contiguous()
    components = Components(basis, torch.randn(channels, generator=generator), 1.0)
    start = Start.of(recipe, features, image)
    return ImplicitField(features, image, network.eval().requires_grad_(False), components, {}, start=start)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


sides = st.integers(min_value=1, max_value=41)
cases = st.fixed_dictionaries(
    {
        "grid": st.tuples(st.integers(1, 6), st.integers(1, 6)),
        "image_hw": st.tuples(sides, sides),
        "channels": st.integers(1, 9),
        "seed": st.integers(0, 2**16),
        "offset": st.sampled_from([(0.0, 0.0), (0.3, -0.45)]),
    }
)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(case=cases, size=st.tuples(sides, sides), rank=st.integers(1, 5), data=st.data())
def test_projection_equals_the_matrix_times_the_full_features(variant, case, size, rank, data):
    field = make_field(variant, **case)
    full = field.features(size=size)
    assert full.shape == (case["channels"], *size)
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    matrix, bias = torch.randn(rank, case["channels"], generator=generator), torch.randn(rank, generator=generator)
    expected = torch.einsum("kc,chw->khw", matrix, full) + bias[:, None, None]
    assert relative_error(field.project(matrix, bias, size=size), expected) < 1e-4

    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    height, width = data.draw(st.integers(1, size[0] - top)), data.draw(st.integers(1, size[1] - left))
    region = Region(top, left, height, width)
    part = field.project(matrix, bias, size=size, region=region)
    assert float((part - expected[:, region.rows, region.columns]).abs().max()) < 1e-4 * float(expected.abs().max() + 1)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=10, deadline=None)
@given(case=cases, size=st.tuples(sides, sides), budget=st.integers(1, 2**19))
def test_tiles_cover_the_output_once_whatever_the_budget(variant, case, size, budget):
    field = make_field(variant, **case)
    full = field.features(size=size)
    rebuilt = torch.full_like(full, float("nan"))
    for region, tile in field.tiles(size=size, memory_budget=budget):
        assert rebuilt[:, region.rows, region.columns].isnan().all()
        rebuilt[:, region.rows, region.columns] = tile
    assert relative_error(rebuilt, full) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_and_samples_agree_with_the_full_features(variant):
    field = make_field(variant, grid=(5, 7), image_hw=(61, 83), channels=6, seed=3)
    size = (61, 83)
    full = field.features(size=size)
    torch.testing.assert_close(field.norms(size=size), full.norm(dim=0), rtol=1e-5, atol=1e-5)
    part = Region(7, 11, 20, 30)
    torch.testing.assert_close(
        field.norms(size=size, region=part), full.norm(dim=0)[part.rows, part.columns], rtol=1e-5, atol=1e-5
    )
    points = [(0.2, 0.9), (82.9, 60.9), (40.5, 12.5), (500.0, -3.0)]
    expected = torch.stack([full[:, 0, 0], full[:, 60, 82], full[:, 12, 40], full[:, 0, 82]])
    torch.testing.assert_close(field.sample(points), expected, rtol=1e-4, atol=1e-5)


def test_field_of_a_stack_equals_its_forward_at_sixteen_times_the_grid():
    field = make_field("jbu learned", grid=(4, 6), image_hw=(64, 96), channels=5, seed=11)
    stack = JBUStack(5)
    generator = torch.Generator().manual_seed(11)
    torch.randint(0, 256, (64, 96, 3), generator=generator, dtype=torch.uint8)
    torch.randn(5, 4, 6, generator=generator)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.1)
    pixels = torch.from_numpy(field.coarse.image.pixels.astype(np.float32)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    guidance = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = stack.eval()(field.coarse.data[None], guidance[None])[0]
    assert relative_error(field.features(size=(64, 96)), expected) < 5e-4  # a field's window weights are in float16


def test_classical_upsampling_follows_the_edges_of_the_image():
    image_hw, grid = (96, 96), (6, 6)
    pixels = np.zeros((*image_hw, 3), np.uint8)
    pixels[:, 44:] = 230  # the edge lies inside of the cells of column 2, at 12/16 of their width
    image = image_from_array(pixels)
    data = torch.zeros(1, *grid)
    data[:, :, 2] = 0.25
    data[:, :, 3:] = 1
    geometry = Geometry(image_hw=image_hw, input_hw=(84, 84), grid_hw=grid)
    features = FeatureMap(data=data, geometry=geometry, layer="block 0", image=image)
    one = torch.ones(1, 1)

    def step_at_edge(method: str, **options: str) -> float:
        row = upsample(features, image, method, **options).project(one, size=image_hw)[0, 48]
        return float(row[45] - row[42])

    assert step_at_edge("jbu", kernel="classical") > 3 * step_at_edge("bilinear")


def test_the_offset_of_the_receptive_fields_moves_the_picture():
    data = torch.zeros(1, 8, 8)
    data[0, 4, 4] = 1
    image = image_from_array(np.full((64, 64, 3), 128, np.uint8))
    peaks = []
    for offset in ((0.0, 0.0), (0.5, 0.25)):
        geometry = Geometry(image_hw=(64, 64), input_hw=(64, 64), grid_hw=(8, 8), offset_xy=offset)
        features = FeatureMap(data=data, geometry=geometry, layer="stage 1", image=image)
        picture = upsample(features, image, "bilinear").project(torch.ones(1, 1), size=(64, 64))[0]
        total = picture.sum()
        lines = torch.arange(64) + 0.5
        peaks.append((float((picture.sum(0) * lines).sum() / total), float((picture.sum(1) * lines).sum() / total)))
    assert peaks[0] == pytest.approx((36, 36), abs=0.01)
    assert peaks[1] == pytest.approx((40, 38), abs=0.01)


def test_wrong_matrix_and_region_are_refused():
    field = make_field("jbu", grid=(3, 3), image_hw=(20, 20), channels=4, seed=0)
    with pytest.raises(ValueError, match=r"expected \(K, 4\)"):
        field.project(torch.zeros(2, 5), size=(20, 20))
    with pytest.raises(ValueError, match="does not lie inside"):
        field.project(torch.zeros(2, 4), size=(20, 20), region=Region(10, 10, 11, 2))
