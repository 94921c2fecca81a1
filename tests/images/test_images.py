"""Every kind of picture file becomes the right pixels, or one sentence that a person can act on."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms

from featup_app import images
from featup_app.base.errors import ImageError
from featup_app.images import image_from_array, image_from_bytes, load_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(folder, name, picture, **options) -> Path:
    path = folder / name
    if not isinstance(picture, Pillow.Image):
        picture = Pillow.fromarray(picture)
    picture.save(path, **options)
    return path


def sentence(path) -> str:
    """The message of the ImageError that opening this file raises; it names the file."""
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert Path(path).name in message
    assert message.startswith("Cannot open")
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_plain_file_gives_its_pixels_and_facts(tmp_path):
    path = saved(tmp_path, "plain.png", RGB)
    image = load_image(str(path))
    assert np.array_equal(image.pixels, RGB)
    assert image.size_hw == (6, 9)
    assert (image.name, image.path, image.mode, image.notes) == ("plain.png", path, "RGB, 8 bit", ())
    assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous


def test_pixels_are_read_only_and_the_array_of_the_caller_stays_its_own(tmp_path):
    image = load_image(saved(tmp_path, "plain.png", RGB))
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0, 0] = 1
    mine = RGB.copy()
    image = image_from_array(mine)
    mine[:] = 0
    assert np.array_equal(image.pixels, RGB)


def test_images_compare_by_identity(tmp_path):
    path = saved(tmp_path, "plain.png", RGB)
    first, second = load_image(path), load_image(path)
    assert first != second
    assert len({first, second}) == 2


def test_an_image_refuses_wrong_pixels():
    with pytest.raises(ValueError, match="float32"):
        images.Image(RGB.astype(np.float32), "x", None, "", "")
    with pytest.raises(ValueError, match="expected uint8"):
        images.Image(RGB[..., 0], "x", None, "", "")


def test_pasted_bytes_have_a_name_and_no_path(tmp_path):
    data = saved(tmp_path, "plain.png", RGB).read_bytes()
    image = image_from_bytes(data)
    assert (image.name, image.path) == ("pasted image", None)
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    with pytest.raises(ImageError, match="clipboard"):
        image_from_bytes(b"hello", name="clipboard")


# --- orientation and colour -----------------------------------------------------------------------------------------

UPRIGHT = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    image = load_image(saved(tmp_path, f"turned.{suffix}", RGB, exif=exif, **options))
    assert np.array_equal(image.pixels, UPRIGHT.get(orientation, lambda p: p)(RGB))
    assert len(image.notes) == (0 if orientation == 1 else 1)
    assert all("EXIF" in note for note in image.notes)


def test_exif_orientation_of_a_16_bit_png(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    end = data.rindex(b"IDAT") - 4
    image = image_from_bytes(data[:end] + chunk + data[end:])
    assert np.array_equal(image.pixels, np.rot90(RGB, -1))


def test_broken_exif_is_ignored(tmp_path):
    image = load_image(saved(tmp_path, "odd.jpg", RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01\x02"))
    assert image.size_hw == (6, 9)


def test_palette_without_transparency(tmp_path):
    picture = Pillow.fromarray(RGB).quantize(8)
    image = load_image(saved(tmp_path, "palette.png", picture))
    assert np.array_equal(image.pixels, np.asarray(picture.convert("RGB")))
    assert (image.mode, image.notes) == ("palette, 8 bit", ())


def test_palette_with_transparency_is_put_over_white(tmp_path):
    picture = Pillow.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    image = load_image(saved(tmp_path, "palette.png", picture, transparency=0))
    assert image.pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert any("white" in note for note in image.notes)


def test_alpha_is_composited_over_white(tmp_path):
    rgba = np.dstack([RGB, np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9)])
    image = load_image(saved(tmp_path, "alpha.png", rgba))
    alpha = rgba[..., 3:] / 255
    assert np.abs(image.pixels - (RGB * alpha + 255 * (1 - alpha))).max() <= 0.51
    assert image.mode == "RGBA, 8 bit"
    assert image.notes == ("Transparent parts are shown over white.",)
    grey = load_image(saved(tmp_path, "la.png", Pillow.new("LA", (3, 2), (100, 51))))
    assert (grey.pixels == round(100 * 0.2 + 255 * 0.8)).all()


def test_opaque_alpha_needs_no_note(tmp_path):
    image = load_image(saved(tmp_path, "opaque.png", Pillow.fromarray(RGB).convert("RGBA")))
    assert np.array_equal(image.pixels, RGB)
    assert image.notes == ()


def test_grey_and_black_and_white(tmp_path):
    grey = load_image(saved(tmp_path, "grey.png", RGB[..., 0]))
    assert np.array_equal(grey.pixels, np.repeat(RGB[..., :1], 3, axis=2))
    assert grey.mode == "grey, 8 bit"
    bilevel = load_image(saved(tmp_path, "bw.png", RGB[..., 0] > 100))
    assert np.array_equal(bilevel.pixels[..., 1], np.where(RGB[..., 0] > 100, 255, 0))
    assert bilevel.mode == "black and white, 1 bit"


def test_cmyk_and_adobe_inverted_jpeg(tmp_path):
    ink = Pillow.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    for name in ("ink.tif", "ink.jpg"):  # Pillow writes CMYK JPEG as Adobe does: inverted, with its marker
        image = load_image(saved(tmp_path, name, ink))
        assert image.mode == "CMYK"
        assert np.abs(image.pixels.astype(int) - [255, 0, 0]).max() <= 3
    assert b"Adobe" in (tmp_path / "ink.jpg").read_bytes()


def swapped_profile() -> bytes:
    """The sRGB profile with the red and blue primaries exchanged, so that a conversion cannot be overlooked."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.index(b"rXYZ", 128), data.index(b"bXYZ", 128)
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data.replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be")))


def test_an_icc_profile_is_applied(tmp_path):
    picture = Pillow.new("RGB", (4, 4), (200, 100, 0))
    image = load_image(saved(tmp_path, "profile.png", picture, icc_profile=swapped_profile()))
    assert np.abs(image.pixels.astype(int) - [0, 100, 200]).max() <= 2
    assert any("BGRs" in note and "sRGB" in note for note in image.notes)


def test_useless_icc_profiles_change_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, b"no profile at all", srgb[:200]):
        image = load_image(saved(tmp_path, "profile.png", RGB, icc_profile=icc))
        assert np.array_equal(image.pixels, RGB)
        assert image.notes == ()
    grey = load_image(saved(tmp_path, "grey.png", RGB[..., 0], icc_profile=swapped_profile()))  # RGB profile in grey
    assert np.array_equal(grey.pixels[..., 2], RGB[..., 0])


# --- depth ----------------------------------------------------------------------------------------------------------


def test_16_bit_grey_over_the_full_range(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for name in ("full.png", "full.tif"):
        image = load_image(saved(tmp_path, name, values))
        assert image.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
        assert (image.mode, image.notes) == ("grey, 16 bit", ("16 bit scaled to 8 bit.",))


def test_12_bit_grey_is_scaled_by_its_maximum(tmp_path):
    image = load_image(saved(tmp_path, "twelve.png", np.array([[0, 1000, 2000]], np.uint16)))
    assert image.pixels[0, :, 2].tolist() == [0, 128, 255]
    assert "2000" in image.notes[0]
    black = load_image(saved(tmp_path, "black.png", np.zeros((2, 2), np.uint16)))
    assert not black.pixels.any()


def test_32_bit_grey_is_scaled_from_its_lowest_to_its_highest(tmp_path):
    image = load_image(saved(tmp_path, "deep.tif", np.array([[-100, 0, 100_000]], np.int32)))
    assert image.pixels[0, :, 0].tolist() == [0, 0, 255]
    assert image.mode == "grey, 32 bit"
    assert "-100" in image.notes[0]


def test_16_bit_colour_keeps_what_8_bit_would_drop(tmp_path):
    values = np.array([[[0, 1000, 2000], [500, 1500, 250]]], np.uint16)  # the high bytes alone would be nearly black
    for name in ("colour.png", "colour.tif"):
        cv2.imwrite(str(tmp_path / name), values[..., ::-1])
        image = load_image(tmp_path / name)
        assert image.pixels.tolist() == [[[0, 128, 255], [64, 191, 32]]]
        assert image.mode == "RGB, 16 bit"
    rgba = np.dstack([RGB, np.full((6, 9), 51, np.uint8)])[..., [2, 1, 0, 3]].astype(np.uint16) * 257
    image = image_from_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    assert np.abs(image.pixels - (RGB * 0.2 + 255 * 0.8)).max() <= 0.51
    assert image.mode == "RGBA, 16 bit"


def test_float_tiff(tmp_path):
    unit = load_image(saved(tmp_path, "unit.tif", np.array([[0, 0.5, 1]], np.float32)))
    assert unit.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert unit.mode == "grey, floating point"
    wide = load_image(saved(tmp_path, "wide.tif", np.array([[-10, 0, 10, np.nan, np.inf]], np.float32)))
    assert wide.pixels[0, :, 0].tolist() == [0, 128, 255, 128, 128]
    assert len(wide.notes) == 2
    cv2.imwrite(str(tmp_path / "colour.tif"), np.array([[[1, 0.5, 0]]], np.float32))
    colour = load_image(tmp_path / "colour.tif")
    assert colour.pixels.tolist() == [[[0, 128, 255]]]
    assert colour.mode == "RGB, floating point"


# --- frames, sizes, quiet -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames(tmp_path, suffix):
    frames = [Pillow.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(1, 4)]
    path = saved(tmp_path, f"many.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    image = load_image(path)
    assert np.abs(image.pixels.astype(int) - [60, 0, 0]).max() <= 4
    assert image.notes == ("The file holds 3 pages; this is page 1.",)
    assert (image.pages, image.page) == (3, 1)


def test_100_megapixels_open(tmp_path):
    path = saved(tmp_path, "large.png", Pillow.new("1", (10_000, 10_000), 1))
    image = load_image(path)
    assert image.size_hw == (10_000, 10_000)
    assert image.pixels[::999, ::999].min() == 255


def test_one_sentence_beyond_the_pixel_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("featup_app.images.failures.MAX_PIXELS", 50)
    assert "limit" in sentence(saved(tmp_path, "above.png", RGB))
    assert "limit" in sentence(saved(tmp_path, "far-above.png", np.zeros((50, 50), np.uint8)))
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((9, 9, 3), np.float32))
    assert "limit" in sentence(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="limit"):
        image_from_array(RGB)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_sizes_open_normally(tmp_path, size):
    for name in ("thin.png", "thin.jpg"):
        image = load_image(saved(tmp_path, name, np.full((*size, 3), 77, np.uint8)))
        assert image.size_hw == size
        assert (image.pixels == 77).all()


def test_nothing_on_stderr_and_no_setting_changed(tmp_path, capfd, recwarn):
    before = Pillow.MAX_IMAGE_PIXELS
    picture = Pillow.fromarray(RGB).quantize(8)
    load_image(saved(tmp_path, "bytes.png", picture, transparency=bytes(range(8))))  # Pillow warns about these
    load_image(saved(tmp_path, "odd.jpg", RGB, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0"))
    load_image(saved(tmp_path, "large.png", Pillow.new("1", (10_000, 9_500))))
    cv2.imwrite(str(tmp_path / "float.tif"), np.ones((9, 9, 3), np.float32))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "float.tif").read_bytes()[:-20])
    sentence(tmp_path / "cut.tif")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not recwarn.list
    assert before == Pillow.MAX_IMAGE_PIXELS


# --- what cannot be opened ------------------------------------------------------------------------------------------


def test_every_kind_of_failure_has_its_own_sentence(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    contents = {
        "empty.png": b"",
        "text.png": "grüße aus der Küche\n".encode() * 400,
        "archive.png": b"PK\x03\x04" + bytes(60),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(60),
        "noise.png": bytes(range(1, 255)) * 3,
        "header.png": b"\x89PNG\r\n\x1a\n\0\0",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    jpeg = saved(tmp_path, "cut.jpg", np.tile(RGB, (20, 20, 1))).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    expected = {
        "missing.png": "no such file",
        "folder.png": "it is a folder",
        "empty.png": "empty",
        "text.png": "it holds text",
        "archive.png": "a ZIP archive",
        "phone.heic": "HEIC picture, which this program does not read",
        "noise.png": "no picture of a known format",
        "header.png": "header is damaged",
        "cut.jpg": "damaged or cut short (image file is truncated",
    }
    messages = {name: sentence(tmp_path / name) for name in expected}
    for name, words in expected.items():
        assert words in messages[name]
    assert len({message.replace(name, "") for name, message in messages.items()}) == len(expected)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "permission" in sentence(saved(tmp_path, "secret.png", RGB))


def test_a_device_or_an_impossible_name_is_no_picture():
    assert "device" in sentence(os.devnull)
    assert "reading failed" in sentence("nul\0byte.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_truncated_files_name_the_file_and_keep_the_cause(tmp_path, suffix):
    path = saved(tmp_path, f"cut.{suffix}", np.tile(RGB, (30, 30, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "cut short" in sentence(path)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert isinstance(caught.value.__cause__, Exception)


def test_damage_amid_the_pixels_is_not_passed_over(tmp_path):
    path = saved(tmp_path, "flipped.png", RGB)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in sentence(path)


def encoded(suffix: str) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(RGB).save(stream, suffix)
    return stream.getvalue()


def tiff_of(compression: str) -> bytes:
    """Two pages in tiles."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for _ in range(2):
            writer.write(RGB, photometric="rgb", tile=(16, 16), compression=compression, metadata=None)
    return stream.getvalue()


SEEDS = [
    encoded("JPEG"),
    encoded("PNG"),
    encoded("GIF"),
    cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1].tobytes(),
    encoded("TIFF"),
    *(tiff_of(compression) for compression in ("lzw", "deflate", "jpeg", "zstd")),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
)
def test_any_bytes_give_an_image_or_an_image_error(monkeypatch, seed, changes, keep):
    monkeypatch.setattr("featup_app.images.failures.MAX_PIXELS", 1_000_000)
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value
    if keep > 0.1:  # else whole
        data = data[: int(keep * len(data))]
    message = "mutant"
    try:
        image_from_bytes(bytes(data), name="mutant")
    except ImageError as error:
        message = str(error)
    assert "mutant" in message


@pytest.mark.parametrize("share", [0.05, 0.125, 0.3, 0.6, 0.9])
def test_a_cut_jpeg_is_named_in_its_sentence(share):
    data = SEEDS[0]
    with pytest.raises(ImageError, match="mutant"):
        image_from_bytes(data[: int(share * len(data))], name="mutant")


def test_directories_in_a_circle_end():
    data = bytearray(tiff_of("lzw"))
    first = int.from_bytes(data[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[after : after + 4] = data[4:8]
    with pytest.raises(ImageError, match="circle"):
        image_from_bytes(bytes(data))
