"""Views are one exact map of places, and downsamplers are averages, for every size and draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.multiview import AttentionDownsampler, BlurDownsampler, Jitter, box_average, random_jitter

pytestmark = pytest.mark.usefixtures("one_thread")


sides = st.integers(min_value=2, max_value=40)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**16)


def draw_view(seed: int, size_hw: tuple[int, int]) -> Jitter:
    return random_jitter(torch.Generator().manual_seed(seed), size_hw, max_padding=12, max_zoom=2.5)


@settings(max_examples=150, deadline=None)
@given(size_hw=sizes, seed=seeds)
def test_looking_up_equals_padding_zooming_cropping_and_flipping(size_hw, seed):
    view = draw_view(seed, size_hw)
    image = torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(view.sample(image, size_hw), view.pixels(image))


@settings(max_examples=150, deadline=None)
@given(size_hw=sizes, size=st.tuples(st.integers(1, 60), st.integers(1, 60)), seed=seeds)
def test_places_are_inside_the_image(size_hw, size, seed):
    places = draw_view(seed, size_hw).coordinates(size)
    assert places.shape == (*size, 2)
    assert places.dtype == torch.float32
    assert places.min() >= 0
    assert places.max() <= 1


@settings(max_examples=60, deadline=None)
@given(size_hw=sizes, size=sizes, seed=seeds)
def test_flipping_a_view_twice_gives_it_back(size_hw, size, seed):
    view = draw_view(seed, size_hw)
    mirrored = replace(view, flip=not view.flip)
    image = torch.randn(3, *size_hw, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(mirrored.coordinates(size).flip(1), view.coordinates(size))
    torch.testing.assert_close(mirrored.pixels(image).flip(-1), view.pixels(image))
    assert replace(mirrored, flip=not mirrored.flip) == view


@settings(max_examples=30, deadline=None)
@given(seed=seeds, size=sizes)
def test_a_pixel_of_the_image_is_found_where_the_view_shows_it(seed, size):
    view = draw_view(seed, (48, 64))
    places, inside = view.seen(size)
    for row, column in inside.nonzero().tolist()[::7]:
        x, y = places[row, column].tolist()
        # The view, drawn finely, looks at the pixel from there.
        fine = view.coordinates((480, 640))
        there = fine[min(int(y * 480), 479), min(int(x * 640), 639)]
        expected = torch.tensor([(column + 0.5) / size[1], (row + 0.5) / size[0]])
        torch.testing.assert_close(there, expected, atol=0.02, rtol=0)


@settings(max_examples=60, deadline=None)
@given(size_hw=st.tuples(st.integers(30, 60), st.integers(30, 60)), factor=st.integers(1, 3), seed=seeds)
def test_a_smooth_picture_looks_the_same_at_every_resolution(size_hw, factor, seed):
    view = draw_view(seed, size_hw)

    def picture(size: tuple[int, int]) -> torch.Tensor:
        rows = (torch.arange(size[0], dtype=torch.float64) + 0.5) / size[0]
        columns = (torch.arange(size[1], dtype=torch.float64) + 0.5) / size[1]
        return (torch.sin(2 * rows)[:, None] + torch.cos(3 * columns) * rows[:, None])[None]

    fine = size_hw[0] * factor, size_hw[1] * factor
    looked_up = view.sample(picture(fine), size_hw)
    torch.testing.assert_close(looked_up, view.pixels(picture(size_hw)), atol=0.05, rtol=0)


@pytest.mark.parametrize("training", [False, True])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), size_hw=st.tuples(st.integers(4, 40), st.integers(4, 40)), seed=seeds)
def test_a_constant_stays_constant(training, data, size_hw, seed):
    grid = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    kernel_size = data.draw(st.integers(1, min(size_hw)))
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(3, generator=generator, dtype=torch.float64)
    features = value[:, None, None].expand(3, *size_hw)
    expected = value[:, None, None].expand(3, *grid)
    attention = AttentionDownsampler(3, kernel_size, generator).double().train(training)
    torch.testing.assert_close(attention(features, grid, generator=generator), expected)
    torch.testing.assert_close(BlurDownsampler(kernel_size).double()(features, grid), expected)
    torch.testing.assert_close(box_average(features, grid), expected)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size_hw=st.tuples(st.integers(4, 30), st.integers(4, 30)), seed=seeds)
def test_averages_stay_between_the_least_and_the_greatest(data, size_hw, seed):
    grid = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    kernel_size = data.draw(st.integers(1, min(size_hw)))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, *size_hw, generator=generator)
    least, greatest = features.amin((1, 2)) - 1e-5, features.amax((1, 2)) + 1e-5
    modules = AttentionDownsampler(4, kernel_size, generator).train(), BlurDownsampler(kernel_size)
    for result in (*(module(features, grid) for module in modules), box_average(features, grid)):
        assert (result >= least[:, None, None]).all()
        assert (result <= greatest[:, None, None]).all()
