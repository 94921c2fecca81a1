"""Thumbnails look as the pictures open, cost little, and fail with the same sentences."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture

from featup_app.base.errors import ImageError
from featup_app.images import failures, load_image, resized, sample_images, thumbnail, thumbnails

SIDE = 96


def colours(height: int = 200, width: int = 300) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, 255 - rows * 255 // height], -1).astype(np.uint8)


@pytest.fixture(
    params=[
        "plain.png",
        "plain.jpg",
        "plain.webp",
        "plain.tif",
        "turned.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "deep.png",
        "alpha.png",
    ]
)
def path(request, tmp_path):
    path, pixels = tmp_path / f"a {request.param}", colours()
    picture = Picture.fromarray(pixels)
    options = {}
    if "turned" in path.name:
        exif = Picture.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    elif "grey" in path.name:
        picture = picture.convert("L")
    elif "cmyk" in path.name:
        picture = picture.convert("CMYK")
    elif "deep" in path.name:
        picture = Picture.fromarray(pixels[..., 1].astype(np.uint16) * 257)
    elif "alpha" in path.name:
        picture.putalpha(Picture.fromarray(pixels[..., 1]))
    picture.save(path, **options)
    return path


def test_a_thumbnail_looks_like_the_picture(path):
    small, image = thumbnail(path, SIDE), load_image(path)
    assert max(small.shape[:2]) == SIDE
    assert (small.shape[0] > small.shape[1]) == (image.size_hw[0] > image.size_hw[1]), "upright"
    expected = resized(image.pixels, small.shape[:2]).astype(int)
    assert np.abs(expected - small).mean() < 3
    assert np.abs(expected - small).max() < 24


def test_small_pictures_keep_their_size(tmp_path):
    path = tmp_path / "small.png"
    Picture.fromarray(colours(3, 7)).save(path)
    assert (thumbnail(path, SIDE) == load_image(path).pixels).all()


def test_a_page_is_the_one_that_is_named(tmp_path):
    path = tmp_path / "stack.tif"
    pages = [Picture.fromarray(np.full((20, 20, 3), shade, np.uint8)) for shade in (10, 200)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert thumbnail(f"{path}#page=2", SIDE)[0, 0, 0] == 200


def test_bad_files_fail_with_the_sentence_of_opening_them(tmp_path, monkeypatch):
    photo = sample_images()[0].read_bytes()
    files = {
        "empty.png": b"",
        "notes.jpg": b"these are notes",
        "cut.jpg": photo[:9000],
        "head.jpg": photo[:3],
        "zip.png": b"PK\x03\x04" + bytes(100),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    huge = tmp_path / "huge.jpg"
    huge.write_bytes(photo)

    def check(path) -> str:
        with pytest.raises(ImageError) as opened:
            load_image(path)
        with pytest.raises(ImageError) as reduced:
            thumbnail(path, SIDE)
        assert str(reduced.value) == str(opened.value)
        return str(opened.value)

    for path in (*(tmp_path / name for name in files), tmp_path / "missing.png", tmp_path):
        check(path)
    Picture.fromarray(colours()).save(tmp_path / "huge.png")
    monkeypatch.setattr(failures, "MAX_PIXELS", 1000)
    for path in (huge, tmp_path / "huge.png"):
        assert "the limit of" in check(path)


def test_what_would_take_seconds_has_no_thumbnail(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Picture.fromarray(colours()).save(path)
    monkeypatch.setattr(thumbnails, "MOST_PIXELS", 1000)
    assert thumbnail(path, SIDE) is None
    assert thumbnail(sample_images()[0], SIDE) is not None, "JPEG files are reduced while they are decoded"
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 100)
    assert thumbnail(sample_images()[0], SIDE) is None
