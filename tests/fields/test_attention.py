"""Attention to coarse cells: its definition, that it stays between the cells, and that no seam shows where windows move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featup_app.base.errors import UpsamplerError
from featup_app.features import FeatureMap, Geometry, Region
from featup_app.fields import upsample
from featup_app.fields.attention import COLOUR, WIDTH, AttentionField
from featup_app.fields.guidance import lab
from featup_app.images import Image, image_from_array


def a_field(pixels: np.ndarray, data: torch.Tensor, **options: object) -> AttentionField:
    grid = int(data.shape[1]), int(data.shape[2])
    image: Image = image_from_array(pixels)
    geometry = Geometry(image_hw=image.size_hw, input_hw=(grid[0] * 14, grid[1] * 14), grid_hw=grid)
    field = upsample(FeatureMap(data, geometry, "layer", image, None, {}), method="attention", **options)
    assert isinstance(field, AttentionField)
    return field


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coloured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_one_step_is_the_softmax_of_colour_and_distance():
    pixels, data = coloured(10, 14), noise(3, 5, 7)
    found = a_field(pixels, data, consistency=0).features(size=(10, 14))
    colours = lab(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    cells = torch.nn.functional.adaptive_avg_pool2d(colours[None], (5, 7))[0]
    for row, column in ((0, 0), (4, 7), (9, 13), (3, 2)):
        y, x = (row + 0.5) / 2, (column + 0.5) / 2
        logits, values = [], []
        for i in range(max(0, row // 2 - 2), min(5, row // 2 + 3)):
            for j in range(max(0, column // 2 - 2), min(7, column // 2 + 3)):
                down, across = i + 0.5 - y, j + 0.5 - x
                far = (colours[:, row, column] - cells[:, i, j]).square().sum() / (2 * COLOUR**2)
                taper = np.log(1 - (down / 2.5) ** 2) + np.log(1 - (across / 2.5) ** 2)
                logits.append(float(-far) - (down**2 + across**2) / (2 * WIDTH**2) + taper)
                values.append(data[:, i, j])
        expected = torch.tensor(logits).softmax(0).float() @ torch.stack(values)
        torch.testing.assert_close(found[:, row, column], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(37, 41), (5, 7), (3, 4), (80, 112), (200, 9)])
def test_values_stay_between_those_of_the_cells(size):
    data = noise(4, 5, 7)
    found = a_field(coloured(60, 84), data, consistency=0).features(size=size)
    assert found.shape == (4, *size)
    assert bool((found.amax((1, 2)) <= data.amax((1, 2)) + 1e-5).all())
    assert bool((found.amin((1, 2)) >= data.amin((1, 2)) - 1e-5).all())


@pytest.mark.parametrize("grid", [(1, 9), (9, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize(
    "pixels", [np.full((40, 50, 3), 255, np.uint8), np.zeros((40, 50, 3), np.uint8), coloured(3, 2)]
)
def test_small_grids_and_pictures_of_one_colour(grid, pixels):
    found = a_field(pixels, noise(3, *grid)).features(size=(40, 50))
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("size", [(80, 112), (61, 83)])
def test_a_picture_of_one_colour_leaves_the_distances_alone(size):
    data = noise(3, 5, 7)
    found = [a_field(np.full((40, 56, 3), grey, np.uint8), data).features(size=size) for grey in (0, 90, 255)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)
    turned = a_field(np.full((40, 56, 3), 7, np.uint8), data.flip(1, 2)).features(size=size).flip(1, 2)
    torch.testing.assert_close(turned, found[0], atol=1e-5, rtol=0)  # no side is preferred


def test_a_grey_picture_is_one_of_equal_channels():
    grey, data = coloured(60, 84)[:, :, 0], noise(3, 5, 7)
    found = a_field(grey, data).features(size=(61, 83))
    assert bool(found.isfinite().all())
    torch.testing.assert_close(a_field(np.stack([grey] * 3, 2), data).features(size=(61, 83)), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_half_precision_have_the_same_weights(dtype):
    pixels, data = coloured(60, 84), noise(12, 5, 7).to(dtype)
    exact = a_field(pixels, data.float()).features(size=(61, 83))
    found = a_field(pixels, data).features(size=(61, 83))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.02)
    values = noise(2, 5, 7, seed=1)
    carried = [a_field(pixels, each).carry(values, size=(61, 83)) for each in (data, data.float())]
    assert torch.equal(carried[0], carried[1])


def test_a_constant_map_stays_constant():
    found = a_field(coloured(60, 84), torch.full((12, 5, 7), 0.7)).features(size=(61, 83))
    torch.testing.assert_close(found, torch.full_like(found, 0.7))


def waves(height: int, width: int) -> np.ndarray:
    """A picture of slow waves of colour."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    colours = [100 * np.sin(5 * x + 2 * y), 100 * np.cos(3 * y - x), 90 * np.sin(4 * x * y + 1)]
    return (127 + np.stack(colours, 2)).round().astype(np.uint8)


def at_borders(length: int, cells: int) -> torch.Tensor:
    """(length - 1) bool: the steps from one pixel to the next that lead into another cell."""
    positions = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length
    return positions.floor().diff() > 0


# A small picture is interpolated, so that its colours have no steps of 8 bits.
@pytest.mark.parametrize("pixels", [np.full((24, 48, 3), 128, np.uint8), waves(24, 48)], ids=["one colour", "waves"])
@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
@pytest.mark.parametrize("factor", [32, 37.4])
def test_no_step_shows_where_the_window_moves_on_by_a_cell(pixels, doublings, factor, monkeypatch):
    # The last step is drawn so finely that it has small steps everywhere, but for a jump.
    monkeypatch.setattr(AttentionField, "_doublings", lambda field, size: doublings)
    cells, rows = 12 << doublings, min(6 << doublings, 24)
    width = round(cells * factor)
    for data in (noise(8, 6, 12), noise(8, 12, 6).mT):
        drawn = a_field(pixels, data).features(size=(rows, width))
        steps = drawn.diff(dim=2).abs()
        beyond = steps[:, :, 1:-1] - torch.maximum(steps[:, :, :-2], steps[:, :, 2:])  # its neighbours
        border = at_borders(width, cells)
        assert float(beyond[:, :, border[1:-1]].max()) <= 0.04 * float(steps.max())
        assert float(steps[:, :, border].max()) <= 1.03 * float(steps[:, :, ~border].max())


@pytest.mark.parametrize("size", [(96, 192), (101, 187), (90, 200), (66, 131), (192, 384)])
def test_borders_of_cells_of_all_levels_have_no_larger_steps_than_their_middles(size):
    field = a_field(np.full((192, 384, 3), 128, np.uint8), noise(16, 6, 12))
    drawn = field.features(size=size)
    for dim in (1, 2):
        steps = drawn.diff(dim=dim).abs().movedim(dim, 0)
        for level in range(field._doublings(size) + 1):
            border = at_borders(size[dim - 1], (6, 12)[dim - 1] << level)
            if float(border.float().mean()) < 0.6:  # else hardly two pixels share a cell
                assert float(steps[border].max()) <= 1.03 * float(steps[~border].max())


def test_an_edge_of_the_picture_is_an_edge_of_the_features():
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:, 43:] = 255  # within a cell
    data = torch.zeros(1, 8, 8)
    data[:, :, 4:] = 1
    drawn = a_field(pixels, data).features(size=(80, 80))[0]
    assert float(drawn[:, :43].max()) < 0.35
    assert float(drawn[:, 43:].min()) > 0.65
    assert float((drawn[:, 43] - drawn[:, 42]).min()) > 0.5


def test_carry_brings_any_map_to_the_output_with_the_same_weights():
    data = noise(6, 5, 7)
    field = a_field(coloured(60, 84), data)
    region = Region(11, 20, 30, 17)
    expected = a_field(coloured(60, 84), data, consistency=0).features(size=(60, 84), region=region)
    torch.testing.assert_close(field.carry(data, size=(60, 84), region=region), expected)


def test_consistency_brings_the_mean_over_a_cell_nearer_to_the_cell():
    data, pixels = noise(4, 5, 7), coloured(60, 84)
    means = [
        torch.nn.functional.avg_pool2d(a_field(pixels, data, consistency=share).features(size=(40, 56))[None], 8)[0]
        for share in (0, 0.5, 1)
    ]
    errors = [float((mean - data).square().mean()) for mean in means]
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2]


def test_maps_on_large_cells_are_carried_over_more_of_them_and_features_are_not():
    data, pixels = noise(6, 5, 7), coloured(160, 224)
    image = image_from_array(pixels)

    def field(stride: int, **options: object) -> AttentionField:
        geometry = Geometry((160, 224), (5 * stride, 7 * stride), (5, 7))
        return AttentionField(FeatureMap(data, geometry, "layer", image, None, {}), image, consistency=0, **options)

    size = (80, 112)
    torch.testing.assert_close(field(32).features(size=size), field(14).features(size=size))
    wide = field(14, width=1.5, window=7).features(size=size)
    torch.testing.assert_close(field(32).carry(data, size=size), wide)
    assert float((field(14).carry(data, size=size) - wide).abs().max()) > 0.1


@pytest.mark.parametrize("channels", [3, 70])
def test_consistency_is_one_matrix_between_cells_for_all_channels(channels):
    data, pixels = noise(channels, 5, 7), coloured(60, 84)
    cells = a_field(pixels, torch.eye(35).view(35, 5, 7), consistency=0.8).features(size=(40, 56))
    found = a_field(pixels, data, consistency=0.8).features(size=(40, 56))
    torch.testing.assert_close(found, torch.einsum("nhw,cn->chw", cells, data.flatten(1)), atol=1e-5, rtol=1e-4)


def test_an_output_as_coarse_as_the_grid_is_the_coarse_map():
    data = noise(4, 5, 7)
    torch.testing.assert_close(a_field(coloured(60, 84), data).features(size=(5, 7)), data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 0}, "greater than zero"),
        ({"width": float("nan")}, "greater than zero"),
        ({"colour": "red"}, "greater than zero"),
        ({"window": 4}, "odd number"),
        ({"consistency": 1.5}, "from 0 to 1"),
        ({"consistency": float("nan")}, "from 0 to 1"),
        ({"consistency": True}, "from 0 to 1"),
        ({"window": True}, "odd number"),
        ({"window": 99}, "odd number"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(UpsamplerError, match=words):
        a_field(coloured(20, 28), noise(3, 5, 7), **options)


def test_lab_of_known_colours():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).T[:, :, None]
    expected = torch.tensor(  # CIE 15, rounded as in published tables
        [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    )
    torch.testing.assert_close(100 * lab(colours)[:, :, 0].T, expected, atol=0.1, rtol=0)
