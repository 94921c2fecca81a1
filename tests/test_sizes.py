"""The grammar of sizes: what a person may type, what it means, and what is answered when it means nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featup_app.base.errors import SizeError
from featup_app.sizes import MAX_INPUT_POSITIONS, MAX_SIDE, resolve_input_size, resolve_output_size

IMAGE, GRID = (300, 451), (32, 48)

sides = st.integers(1, 6000)
image_sizes = st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 5000), (5000, 1), (1, 30_000)]))
strides = st.sampled_from([1, 7, 8, 14, 16, 32, 64])


def output(size, image_hw=IMAGE, grid_hw=GRID):
    return resolve_output_size(size, image_hw=image_hw, grid_hw=grid_hw)


def typed(size, image_hw=IMAGE, stride=14, default=448):
    return resolve_input_size(size, image_hw=image_hw, stride=stride, default=default)


@pytest.mark.parametrize(
    ("size", "meaning"),
    [
        ("480x640", (480, 640)),
        (" 480 X 640 ", (480, 640)),
        ("480×640", (480, 640)),
        ((480, 640), (480, 640)),
        ("600", (600, 902)),
        (600, (600, 902)),
        ("16x", (512, 768)),
        ("16 x", (512, 768)),
        ("16×", (512, 768)),
        ("2.5x", (80, 120)),
        ("1x", GRID),
        ("grid", GRID),
        ("image", IMAGE),
        ("IMAGE", IMAGE),
        (f"{MAX_SIDE}x1", (MAX_SIDE, 1)),
    ],
)
def test_output_sizes(size, meaning):
    assert output(size) == meaning


@pytest.mark.parametrize(
    ("size", "meaning"),
    [
        ("448x602", (448, 602)),
        ("440x600", (434, 602)),
        ((440, 600), (434, 602)),
        ("448", (448, 672)),
        (448, (448, 672)),
        ("image", (294, 448)),
        (None, (448, 672)),
        ("1x1", (14, 14)),
    ],
)
def test_input_sizes_are_rounded_to_the_stride(size, meaning):
    assert typed(size) == meaning


@pytest.mark.parametrize(
    "size", ["", "big", "-5", "4.5", "480x", "x640", "480x640x3", "480,640", "1e3", "nan", "²", "0x0x"]
)
def test_what_is_not_understood_is_repeated_with_the_grammar(size):
    if size != "480x":  # that is a factor of the grid
        with pytest.raises(SizeError, match="not understood") as caught:
            output(size)
        assert f'"{size}"' in str(caught.value)
        assert "480x640" in str(caught.value)
    with pytest.raises(SizeError, match="not understood") as caught:
        typed(size)
    assert f'"{size}"' in str(caught.value)


@pytest.mark.parametrize("size", ["16x", "grid"])
def test_multiples_of_the_grid_are_no_input_size(size):
    with pytest.raises(SizeError, match="not understood"):
        typed(size)


@pytest.mark.parametrize("size", ["0", 0, "0x5", "5x0", "00", (0, 5), (5, 0)])
def test_zero_is_no_size(size):
    for resolve in (output, typed):
        with pytest.raises(SizeError, match="zero pixels") as caught:
            resolve(size)
        assert str(size).strip("()").replace(", ", "x") in str(caught.value).replace(", ", "x")


@pytest.mark.parametrize("size", [-3, (-1, 5)])
def test_negative_numbers_are_refused(size):
    for resolve in (output, typed):
        with pytest.raises(SizeError):
            resolve(size)


@pytest.mark.parametrize("size", ["0x", "0.001x"])
def test_a_factor_that_leaves_nothing_is_refused(size):
    with pytest.raises(SizeError, match="zero pixels"):
        output(size)


@pytest.mark.parametrize("size", ["32769x1", "1x999999", "9999x", "40000", (1, 10**9)])
def test_absurdly_large_outputs_are_refused(size):
    with pytest.raises(SizeError, match=str(MAX_SIDE)):
        output(size)


def test_a_short_side_on_a_strip_is_refused_when_the_long_one_explodes():
    with pytest.raises(SizeError, match="448x2240000"):
        output("448", image_hw=(1, 5000))


@given(size=st.tuples(sides, sides), image_hw=image_sizes)
def test_output_text_and_tuple_mean_the_same(size, image_hw):
    assert output(f"{size[0]}x{size[1]}", image_hw) == output(size, image_hw) == size


@given(side=st.integers(1, 2000), image_hw=st.tuples(sides, sides))
def test_the_shorter_side_is_the_number_and_the_aspect_is_kept(side, image_hw):
    try:
        height, width = output(side, image_hw)
    except SizeError:
        assert side * max(image_hw) / min(image_hw) > MAX_SIDE - 1
        return
    assert min(height, width) == side
    assert height / width == pytest.approx(image_hw[0] / image_hw[1], rel=0.51 / side)


@given(image_hw=image_sizes, stride=strides, default=st.integers(1, 1024))
def test_the_default_input_always_fits(image_hw, stride, default):
    height, width = typed(None, image_hw, stride, default)
    assert height % stride == width % stride == 0
    assert min(height, width) > 0
    assert (height // stride) * (width // stride) <= 4 * max(1, default // stride) ** 2


@given(
    size=st.one_of(st.tuples(sides, sides), st.integers(1, 3000), st.just("image")),
    image_hw=image_sizes,
    stride=strides,
)
def test_a_typed_input_fits_or_the_size_named_instead_works(size, image_hw, stride):
    try:
        result = typed(size, image_hw, stride)
    except SizeError as error:
        named = re.findall(r"(\d+x\d+) would work", str(error))
        result = typed(named[0], image_hw, stride)
        named_and_meant = [*named, f"{result[0]}x{result[1]}"]
    else:
        named_and_meant = ["", ""]
    assert named_and_meant[0] == named_and_meant[1]
    assert result[0] % stride == result[1] % stride == 0
    assert min(result) > 0
    assert (result[0] // stride) * (result[1] // stride) <= MAX_INPUT_POSITIONS


@pytest.mark.parametrize("image_hw", [(1, 5000), (5000, 1)])
def test_strips_get_one_row_of_cells_by_default(image_hw):
    height, width = typed(None, image_hw)
    assert min(height, width) == 14
    # Cells finer than the pixels would show nothing more.
    assert 448 < max(height, width) <= 5000
