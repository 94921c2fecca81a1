"""Pictures made of arrays, pixels of another size, and the samples."""

import cv2
import numpy as np
import pytest

from featup_app import images
from featup_app.base.errors import ImageError
from featup_app.images import image_from_array, load_image, resized

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_arrays_of_every_accepted_kind():
    grey = RGB[..., 0]
    for values in (grey, grey[..., None], grey.astype(np.uint16) * 257, (grey / 255).astype(np.float32), grey / 255):
        assert np.array_equal(image_from_array(values).pixels, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(image_from_array(grey > 9).pixels[..., 0], np.where(grey > 9, 255, 0))
    assert np.array_equal(image_from_array(RGB[::-1, ::2]).pixels, RGB[::-1, ::2])
    assert np.array_equal(image_from_array(RGB / 255).pixels, RGB)
    assert np.array_equal(image_from_array((RGB.astype(np.uint16) * 257).astype(">u2")).pixels, RGB)
    half = np.dstack([np.zeros((6, 9, 3)), np.full((6, 9), 0.2)])
    assert (image_from_array(half).pixels == 204).all()
    assert image_from_array(RGB, name="mine").name == "mine"
    assert image_from_array(RGB).mode == "RGB, 8 bit"


def test_the_hash_of_an_array_depends_on_shape_and_pixels_only():
    flat = np.zeros((2, 6), np.uint8)
    assert image_from_array(flat, name="a").sha256 == image_from_array(flat > 0, name="b").sha256
    assert image_from_array(flat).sha256 != image_from_array(flat.reshape(3, 4)).sha256
    assert image_from_array(flat).sha256 != image_from_array(flat + np.uint8(1)).sha256


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RGB.transpose(2, 0, 1), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
        (RGB.astype(np.int64), "int64"),
        (RGB.astype(np.float32), "0 to 1"),
        (np.full((2, 2), np.nan), "0 to 1"),
        (np.zeros((2, 2), complex), "complex"),
        (np.array([["a"]]), "values are"),
        ([[1, 2], [3]], "no array"),
    ],
)
def test_other_arrays_are_refused(values, words):
    with pytest.raises(ImageError, match=words) as caught:
        image_from_array(values, name="mine")
    assert '"mine"' in str(caught.value)


# --- resized, samples -----------------------------------------------------------------------------------------------


def test_resizing_to_the_same_size_is_the_identity():
    assert np.array_equal(resized(RGB, (6, 9)), RGB)


def test_shrinking_averages_and_enlarging_is_bicubic():
    thirds = RGB.reshape(2, 3, 3, 3, 3).mean(axis=(1, 3))
    assert np.abs(resized(RGB, (2, 3)) - thirds).max() <= 0.51
    assert np.array_equal(resized(RGB, (12, 18)), cv2.resize(RGB, (18, 12), interpolation=cv2.INTER_CUBIC))


def test_every_axis_is_resized_in_its_own_way():
    rows = np.arange(0, 240, 40, np.uint8)[:, None, None] * np.ones((1, 9, 3), np.uint8)
    mixed = resized(rows, (3, 27))  # constant along x, so the enlarged axis changes nothing
    assert mixed.tolist() == np.broadcast_to(np.uint8([[[20]], [[100]], [[180]]]), (3, 27, 3)).tolist()
    assert resized(np.zeros((1, 5000, 3), np.uint8), (64, 64)).shape == (64, 64, 3)
    assert resized(image_from_array(RGB).pixels, (3, 20)).dtype == np.uint8
    assert resized(RGB[..., 0], (3, 20)).shape == (3, 20)


def test_the_sample_photos_open_without_a_note():
    paths = images.sample_images()
    assert [path.stem for path in paths] == ["cat", "coffee", "astronaut"]
    for path in paths:
        image = load_image(path)
        assert image.notes == ()
        assert image.pixels.std() > 30
        assert path.suffix in images.IMAGE_SUFFIXES
        assert path.stat().st_size < 150_000


def test_a_folder_of_ones_own_may_have_any_name(tmp_path):
    sample = images.sample_images()[0]
    own = tmp_path / "resources" / "images" / "cat.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(sample.read_bytes())
    assert load_image(sample).is_sample
    assert load_image(sample).own_folder is None
    assert not load_image(own).is_sample
    assert load_image(own).own_folder == own.parent
    assert not image_from_array(RGB).is_sample
    assert image_from_array(RGB).own_folder is None


def test_suffixes_are_lower_case_and_unique():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in images.IMAGE_SUFFIXES)
    assert len(set(images.IMAGE_SUFFIXES)) == len(images.IMAGE_SUFFIXES)
