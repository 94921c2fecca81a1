"""Files that hold several pages, planes or channels: which is read, how another is chosen, and what is said."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from scene import scene

from featup_app.base.errors import ImageError
from featup_app.images import Selection, image_from_bytes

SCENE = scene()
PLANES = np.stack([SCENE[..., 0], SCENE[..., 1], 255 - SCENE[..., 0], 255 - SCENE[..., 1], SCENE[..., 2]])


def opened(data: bytes, page=None, channels=()):
    return image_from_bytes(data, name="stack.tif", selection=Selection(page, channels))


def written(*pages, **options) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(
        stream, **{key: options.pop(key) for key in ("ome", "imagej") if key in options}
    ) as writer:
        for page in pages:
            writer.write(page, **options)
    return stream.getvalue()


def test_the_largest_page_is_the_default_and_not_the_thumbnail():
    data = written(SCENE[::8, ::8], SCENE, SCENE[::2, ::2], photometric="rgb", metadata=None)
    image = opened(data)
    assert np.array_equal(image.pixels, SCENE)
    assert (image.pages, image.page) == (3, 2)
    assert image.notes == ("The file holds 3 pages; this is page 2, the largest.",)
    for number, expected in enumerate((SCENE[::8, ::8], SCENE, SCENE[::2, ::2]), 1):
        chosen = opened(data, number)
        assert np.array_equal(chosen.pixels, expected)
        assert chosen.page == number
        assert "largest" not in chosen.notes[0]
    with pytest.raises(ImageError, match=r"no page 4; it holds 3 pages"):
        opened(data, 4)


def test_a_picture_in_a_sub_directory_is_a_page():
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(SCENE[::4, ::4], photometric="rgb", metadata=None, subifds=1)
        writer.write(SCENE, photometric="rgb", metadata=None)
    image = opened(stream.getvalue())
    assert np.array_equal(image.pixels, SCENE)
    assert (image.pages, image.page) == (2, 2)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_axes_are_known(kind):
    """Time, depth and channels: two times three pages of two channels."""
    values = np.stack([PLANES[:, ::2], PLANES[:, 1::2]])[:, :3, None]  # (T, Z, 1, Y, X)
    values = np.concatenate([values, 255 - values], axis=2)  # (T, Z, C, Y, X)
    options = {kind: True, "metadata": {"axes": "TZCYX"}, "photometric": "minisblack"}
    data = written(values, **options)
    for page in range(6):
        time, depth = divmod(page, 3)
        first, second = opened(data, page + 1), opened(data, page + 1, (2,))
        assert np.array_equal(first.pixels[..., 1], values[time, depth, 0])
        assert np.array_equal(second.pixels[..., 1], values[time, depth, 1])
        assert (first.pages, first.page, first.channels, first.left_out) == (6, page + 1, 2, 1)
        assert any("2 channels; 1 is shown as grey; left out: 2" in note for note in first.notes)
    assert opened(data).page == 1


def test_ome_in_other_orders_and_colours():
    planes = PLANES[:3]
    data = written(planes, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    assert np.array_equal(opened(data).pixels, np.moveaxis(planes, 0, -1)), "three channels are red, green and blue"
    data = written(np.stack([SCENE, 255 - SCENE]), ome=True, metadata={"axes": "ZYXS"}, photometric="rgb")
    assert np.array_equal(opened(data, 2).pixels, 255 - SCENE)
    data = written(PLANES, metadata={"axes": "ZYX"}, photometric="minisblack")
    assert np.array_equal(opened(data, 4).pixels[..., 0], PLANES[3])
    assert opened(data).pages == 5


def test_a_stack_in_one_piece_has_its_pages():
    data = written(PLANES, imagej=True, metadata={"axes": "ZYX"})
    first = data.index(b"\x16\x01\x04\x00") if b"\x16\x01\x04\x00" in data else None
    assert first is None or len(data) > PLANES.size
    assert np.array_equal(opened(data, 5).pixels[..., 2], PLANES[4])


def test_channels_become_colours_or_grey():
    data = written(np.moveaxis(PLANES, 0, -1), photometric="minisblack", planarconfig="contig", metadata=None)
    image = opened(data)
    assert np.array_equal(image.pixels, np.moveaxis(PLANES[:3], 0, -1))
    assert (image.channels, image.left_out, image.is_partial) == (5, 2, True)
    assert any("5 channels; 1, 2, 3 are shown as red, green and blue; left out: 4, 5" in note for note in image.notes)
    assert np.array_equal(opened(data, None, (4, 3, 2)).pixels, np.moveaxis(PLANES[[3, 2, 1]], 0, -1))
    assert np.array_equal(opened(data, None, (5,)).pixels, np.repeat(SCENE[..., 2:], 3, axis=2))
    with pytest.raises(ImageError, match="no channel 6; it has 5 channels"):
        opened(data, None, (6,))


def test_channels_of_other_formats():
    stream = io.BytesIO()
    Pillow.fromarray(np.dstack([SCENE, 255 - SCENE[..., 0]])).save(stream, "PNG")
    image = opened(stream.getvalue(), None, (2,))
    assert np.array_equal(opened(stream.getvalue(), None, (4,)).pixels, np.repeat(255 - SCENE[..., :1], 3, axis=2))
    alpha = (255 - SCENE[..., 0].astype(float)) / 255
    assert np.abs(image.pixels[..., 0] - (SCENE[..., 1] * alpha + 255 * (1 - alpha))).max() <= 1


def test_the_largest_page_within_the_limit(monkeypatch):
    monkeypatch.setattr("featup_app.images.failures.MAX_PIXELS", 48 * 64)
    data = written(np.repeat(SCENE, 2, axis=0), SCENE, SCENE[::2, ::2], photometric="rgb", metadata=None)
    image = opened(data)
    assert np.array_equal(image.pixels, SCENE)
    assert image.notes == ("The file holds 3 pages; this is page 2, the largest within the limit of pixels.",)
    with pytest.raises(ImageError, match="limit"):
        opened(data, 1)


def test_grey_with_alpha_and_ink_with_a_spot_colour():
    alpha = np.full((48, 64), 51, np.uint8)
    data = written(
        np.dstack([SCENE[..., 0], alpha]), photometric="minisblack", extrasamples=["unassalpha"], metadata=None
    )
    image = opened(data)
    assert np.abs(image.pixels[..., 1] - (SCENE[..., 0] * 0.2 + 255 * 0.8)).max() <= 1
    assert (image.mode, image.left_out) == ("grey with alpha, 8 bit", 0)
    inks = np.dstack([255 - SCENE, np.zeros((48, 64), np.uint8), alpha])
    options = {"photometric": "separated", "planarconfig": "contig", "extrasamples": ["unspecified"], "metadata": None}
    image = opened(written(inks, **options))
    assert np.array_equal(image.pixels, SCENE)
    assert image.notes == ("The file has 5 channels; 1, 2, 3, 4 are shown in colour; left out: 5.",)


@pytest.mark.parametrize("suffix", ["GIF", "WEBP", "PNG"])
def test_frames_are_pages(suffix):
    frames = [Pillow.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(1, 4)]
    stream = io.BytesIO()
    frames[0].save(stream, suffix, save_all=True, append_images=frames[1:])
    for page in (1, 2, 3):
        image = opened(stream.getvalue(), page)
        assert np.abs(image.pixels.astype(int) - [page * 60, 0, 0]).max() <= 4
        assert (image.pages, image.page) == (3, page)
