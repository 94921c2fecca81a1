"""Every picture of ../shared/cases gives its right value; skipped where that folder is not there."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scene import scene

from featup_app.images import Image, image_from_bytes, load_image

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "cases" / "images"

needs_cases = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the inputs of ../shared/cases, which are not there")

COLOUR = scene()
GREY = np.repeat(COLOUR[..., :1], 3, axis=2)

EXPECTED = {
    "badcrc_text.png": (COLOUR, 1, ()),
    "comp_jpeg2000.tif": (COLOUR, 3, ()),
    "f16_grey.tif": (GREY, 1, ("0 to 1",)),
    "f32_be_lzw.tif": (GREY, 1, ("0 to 1",)),
    "f32_rgb_big.tif": (COLOUR, 1, ("0 to 1",)),
    "f32_rgb_planar_lzw.tif": (COLOUR, 1, ("0 to 1",)),
    "i8_grey.tif": (GREY, 1, ()),
    "iccp_big.png": (COLOUR, 1, ()),
    "jpeg12.jpg": (COLOUR, 5, ("12 bit",)),
    "miniswhite16.tif": (GREY, 1, ("16 bit",)),
    "one_hot_pixel.tif": (GREY, 1, ("255", "1 value far beyond")),
    "rgb_nir16.tif": (COLOUR, 1, ("left out: 4",)),
    "tga32_attr0.tga": (COLOUR, 1, ()),
    "u16_rgb_planar_lzw.tif": (COLOUR, 1, ("16 bit",)),
    "u32_rgba.tif": (COLOUR, 1, ("32 bit",)),
}
OWN_TESTS = {"g16_trns.png", "icc_palette.png", "nodata_geotiff.tif", "rgba16_assoc.tif"}


def difference(pixels, expected) -> int:
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


def opened(name: str) -> Image:
    image = load_image(FOLDER / name)
    assert np.array_equal(image.pixels, load_image(FOLDER / name).pixels)
    return image


@needs_cases
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_file_of_the_cases_shows_the_scene(name):
    expected, tolerance, words = EXPECTED[name]
    image = opened(name)
    hot = opened(name).pixels.copy()
    if name == "one_hot_pixel.tif":  # the pixel itself is clipped to white
        far = np.argwhere(np.abs(hot.astype(int) - expected).max(axis=2) > 1)
        assert len(far) == 1
        hot[tuple(far[0])] = expected[tuple(far[0])]
    assert difference(hot, expected) <= tolerance
    assert np.abs(image.pixels[24, 32].astype(int) - expected[24, 32]).max() <= 3
    for word in words:
        assert any(word in note for note in image.notes), image.notes
    assert image.missing is None


@needs_cases
def test_no_file_of_the_cases_is_left_out():
    assert {path.name for path in FOLDER.iterdir()} == EXPECTED.keys() | OWN_TESTS


@needs_cases
def test_pixels_without_data_are_marked():
    image = opened("nodata_geotiff.tif")
    assert image.missing is not None
    rows = np.flatnonzero(image.missing.any(axis=1))
    assert image.missing[rows].all()
    assert rows[0] == 0
    assert difference(image.pixels[~image.missing], GREY[~image.missing]) <= 1
    assert any("without data" in note and "-9999" in note for note in image.notes)


@needs_cases
def test_colours_multiplied_by_alpha_are_divided_by_it():
    image = opened("rgba16_assoc.tif")
    alpha = 33153 / 65535
    over_white = np.array([129, 130, 128]) * alpha + 255 * (1 - alpha)
    assert np.abs(image.pixels[24, 32] - over_white).max() <= 1
    assert any("multiplied" in note for note in image.notes)


@needs_cases
def test_the_grey_value_that_a_png_names_is_transparent():
    values = np.asarray(Pillow.open(FOLDER / "g16_trns.png"))
    image = opened("g16_trns.png")
    assert (values == 1000).any()
    assert (image.pixels[values == 1000] == 255).all()
    assert np.abs(image.pixels[values != 1000][:, 0] - values[values != 1000] / 257).max() <= 1


@needs_cases
def test_the_profile_of_a_palette_is_applied():
    picture = Pillow.open(FOLDER / "icc_palette.png")
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "PNG", icc_profile=picture.info["icc_profile"])
    image = opened("icc_palette.png")
    assert np.array_equal(image.pixels, image_from_bytes(stream.getvalue()).pixels)
    assert difference(image.pixels, np.asarray(picture.convert("RGB"))) > 30
    assert any("Linear sRGB" in note for note in image.notes)
