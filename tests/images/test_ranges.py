"""Which values become black and white: a few values far off, and pixels without data, do not decide it."""

import io

import numpy as np
import pytest
import tifffile
from scene import scene, stored_as, unit_scene

from featup_app.base.errors import ImageError
from featup_app.images import Selection, image_from_array, image_from_bytes, load_image, split_name
from featup_app.images.selection import named, parse_range, parse_selection

RAMP = unit_scene()[..., 0]


def tiff(values, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **({"photometric": "minisblack", "metadata": None} | options))
    return stream.getvalue()


def opened(values, selection=None, **options):
    return image_from_bytes(tiff(values, **options), name="range.tif", selection=selection)


def grey(image):
    assert (image.pixels == image.pixels[..., :1]).all()
    return image.pixels[..., 0].astype(int)


@pytest.mark.parametrize(
    ("dtype", "high", "far"),
    [
        ("u2", 255, 4096),
        ("u2", 4095, 65535),
        ("u4", 255, 2**31),
        ("i2", 300, -20000),
        ("f4", 40.0, 1e9),
        ("f8", 1.0, -1e12),
    ],
)
def test_one_pixel_far_off_does_not_decide(dtype, high, far):
    values = (RAMP * high).astype(dtype)
    values[3, 5] = far
    image = opened(values)
    off = np.abs(grey(image) - RAMP * 255)
    assert off[3, 5] > 0 or far < 0
    off[3, 5] = 0
    assert off.max() <= 255 / high / 2 + 1
    assert image.missing is None
    assert any("1 value far beyond clipped" in note for note in image.notes), image.notes


@pytest.mark.parametrize("mark", [-9999.0, 1e30, -3.4028234663852886e38, np.nan, np.inf])
@pytest.mark.parametrize("share", [1, 20])
def test_pixels_without_data_do_not_decide_and_are_marked(mark, share):
    values = (RAMP * 7 + 3).astype("f4")
    values[:share] = mark
    image = opened(values)
    assert image.missing is not None
    assert image.missing[:share].all()
    assert not image.missing[share:].any()
    assert np.abs(grey(image) - RAMP * 255)[share:].max() <= 1
    assert np.abs(grey(image)[:share] - 127).max() <= 1, "the mean of the others, and not white"
    assert any(f"{share * 64:,} pixels" in note and "without data" in note for note in image.notes)


@pytest.mark.parametrize(("dtype", "nodata"), [("u1", 7), ("i2", -1), ("u2", 65535), ("f4", 0.25), ("f4", "nan")])
def test_the_tag_of_gdal_names_pixels_without_data(dtype, nodata):
    values = stored_as(RAMP, dtype)
    values[10] = float(nodata)
    others = values != np.array(float(nodata)).astype(dtype)
    image = opened(values, extratags=[(42113, "s", 0, str(nodata), True)])
    assert image.missing is not None
    assert np.array_equal(image.missing, ~others if nodata != "nan" else np.isnan(values))
    assert np.abs(grey(image) - RAMP * 255)[~image.missing].max() <= 1


def test_a_colour_with_one_channel_of_the_nodata_value_has_data():
    values = scene()
    values[0] = 0
    image = image_from_bytes(tiff(values, photometric="rgb", extratags=[(42113, "s", 0, "0", True)]))
    assert image.missing is not None
    assert image.missing[0].all()
    assert not image.missing[1:].any()


def test_a_picture_without_any_data_is_refused():
    with pytest.raises(ImageError, match="no pixel of it has data"):
        opened(np.full((8, 8), np.nan, "f4"))


def test_a_mask_within_the_file_marks_pixels():
    stream = io.BytesIO()
    mask = np.ones((48, 64), np.uint8)
    mask[:4] = 0
    with tifffile.TiffWriter(stream) as writer:
        writer.write(scene(), photometric="rgb", metadata=None)
        writer.write(mask > 0, photometric="minisblack", subfiletype=4, metadata=None)
    image = image_from_bytes(stream.getvalue())
    assert (image.pages, image.missing is None) == (1, False)
    assert np.array_equal(image.missing, mask == 0)


def test_a_range_narrower_than_its_type_is_stretched_and_a_wide_one_is_not():
    assert np.abs(grey(opened((400 + RAMP * 500).astype("u2"))) - RAMP * 255).max() <= 1
    assert np.abs(grey(opened((32000 + RAMP * 4000).astype("u2"))) - RAMP * 255).max() <= 1
    wide = opened((8000 + RAMP * 50000).astype("u2"))
    assert np.abs(grey(wide) - (8000 + RAMP * 50000) / 257).max() <= 1
    assert wide.notes == ("16 bit scaled to 8 bit.",)
    small = opened((RAMP * 0.01).astype("f4"))
    assert np.abs(grey(small) - RAMP * 255).max() <= 1


def test_the_range_can_be_chosen():
    values = (RAMP * 1000).astype("u2")
    chosen = opened(values, Selection(range=(250.0, 750.0)))
    expected = np.clip((values.astype(float) - 250) / 500, 0, 1) * 255
    assert np.abs(grey(chosen) - expected).max() <= 1
    assert any("250 to 750" in note and "as chosen" in note for note in chosen.notes)
    assert np.abs(grey(opened(values, Selection(range="full"))) - values / 257).max() <= 1
    eight = opened(stored_as(RAMP, "u1"), Selection(range=(0.0, 127.5)))
    assert np.abs(grey(eight) - np.minimum(RAMP * 2, 1) * 255).max() <= 2
    assert chosen.deep
    assert not eight.deep


def test_a_choice_is_part_of_the_identity_of_an_image():
    data = tiff((RAMP * 1000).astype("u2"))
    plain, chosen = image_from_bytes(data), image_from_bytes(data, selection=Selection(range="full"))
    assert plain.sha256 != chosen.sha256
    assert str(chosen.selection) == "range=full"


def test_alpha_of_twelve_bits_is_opaque():
    values = np.dstack([np.rint(unit_scene() * 4095), np.full((48, 64), 4095)]).astype("u2")
    image = image_from_bytes(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert np.abs(image.pixels.astype(int) - scene()).max() <= 1


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_alpha_of_zero_everywhere_is_opaque(dtype):
    values = stored_as(np.dstack([unit_scene(), np.zeros((48, 64))]), dtype)
    values[..., 3] = 0
    for kind in ("unassalpha", "assocalpha"):
        image = image_from_bytes(tiff(values, photometric="rgb", extrasamples=[kind]))
        assert np.abs(image.pixels.astype(int) - scene()).max() <= 1
    assert np.array_equal(image_from_array(values).pixels, image_from_array(values[..., :3]).pixels)


# -- how people write it ----------------------------------------------------------------------------------------------


def test_names_carry_a_selection(tmp_path):
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff((RAMP * 1000).astype("u2")))
    assert load_image(f"{path}#range=0,500").selection.range == (0.0, 500.0)
    assert load_image(f"{path}#range=0,500").path == path
    both = load_image(f"{path}#range=0,500", Selection(page=1, range="full"))
    assert both.selection == Selection(page=1, range=(0.0, 500.0)), "the name counts more"
    odd = tmp_path / "odd#page=2"
    odd.write_bytes(path.read_bytes())
    assert load_image(odd).selection == Selection()
    assert split_name("a#b.tif") == (split_name("a#b.tif")[0], Selection())
    for selection in (Selection(), Selection(3), Selection(2, (4, 3, 2), (-0.5, 1e6)), Selection(range="full")):
        assert parse_selection(str(selection)) == selection
        assert split_name(named(path, selection)) == (path, selection)


@pytest.mark.parametrize(
    "text", ["page=0", "page=x", "channels=1,2", "channels=0", "range=5", "range=3,1", "range=0,inf", "page=1&x=2"]
)
def test_other_selections_are_refused(text):
    with pytest.raises(ImageError):
        load_image(f"photo.tif#{text}")


def test_ranges_are_written_as_people_write_them():
    assert parse_range(" FULL ") == "full"
    assert parse_range("-1.5, 2e3") == (-1.5, 2000.0)
