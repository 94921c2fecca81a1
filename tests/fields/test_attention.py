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
    found = a_field(pixels, data).features(size=(10, 14))
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
    found = a_field(coloured(60, 84), data).features(size=size)
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


def test_a_constant_map_stays_constant():
    found = a_field(coloured(60, 84), torch.full((12, 5, 7), 0.7)).features(size=(61, 83))
    torch.testing.assert_close(found, torch.full_like(found, 0.7))


def test_no_step_shows_where_the_window_moves_on_by_a_cell():
    data = noise(1, 6, 12)
    drawn = a_field(np.full((96, 192, 3), 128, np.uint8), data).features(size=(12, 384))[0]  # one step along the rows
    steps = (drawn[:, 1:] - drawn[:, :-1]).abs()
    at_border = torch.zeros(383, dtype=torch.bool)
    at_border[31::32] = True
    assert float(steps[:, at_border].max()) <= 1.2 * float(steps[:, ~at_border].max())


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
    expected = field.features(size=(60, 84), region=region)
    torch.testing.assert_close(field.carry(data, size=(60, 84), region=region), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 0}, "greater than zero"),
        ({"width": float("nan")}, "greater than zero"),
        ({"colour": "red"}, "greater than zero"),
        ({"window": 4}, "odd number"),
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
