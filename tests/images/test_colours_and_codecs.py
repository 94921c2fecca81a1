"""Colours as the file states them, and intact files of unusual kinds, which are not called damaged."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms
from scene import scene, unit_scene

from featup_app.base.errors import ImageError
from featup_app.images import image_from_bytes

SCENE = scene()
UNIT = unit_scene()


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(values, *chunks: bytes, options=None) -> bytes:
    """A PNG with further chunks behind its header."""
    stream = io.BytesIO()
    picture = values if isinstance(values, Pillow.Image) else Pillow.fromarray(values)
    picture.save(stream, "PNG", **(options or {}))
    data = stream.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


def deep_png(values) -> bytes:
    return imagecodecs.png_encode(np.ascontiguousarray(values.astype(np.uint16)))


def encoded(kind: str, values=SCENE, **options) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def profile(gamma: float, name: str) -> bytes:
    """An RGB profile with the primaries of sRGB, a power as its curve, and any name."""
    base = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = struct.unpack(">I", base[128:132])[0]
    tags = {base[at : at + 4]: struct.unpack(">II", base[at + 4 : at + 12]) for at in range(132, 132 + 12 * count, 12)}
    bodies = {tag: base[start : start + size] for tag, (start, size) in tags.items()}
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = name.encode("utf-16-be")
    named = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    named += bytes(-len(named) % 4)
    bodies |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"desc": named}
    table, data, start = b"", b"", 132 + 12 * len(bodies)
    for tag, body in bodies.items():
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    whole = base[:128] + struct.pack(">I", len(bodies)) + table + data
    return struct.pack(">I", len(whole)) + whole[4:]


def to_srgb(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055) * 255


LINEAR = to_srgb(SCENE / 255)


def difference(image, expected) -> float:
    return float(np.abs(image.pixels.astype(float) - expected).max())


# -- profiles and curves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Linear", "sRGB", "sRGB IEC61966-2.1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_applied_whatever_its_name_is(name, kind):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = image_from_bytes(encoded(kind, icc_profile=profile(1.0, name), **lossless))
    assert difference(image, LINEAR) <= 2
    assert any(name in note for note in image.notes)


def test_a_profile_that_changes_nothing_is_not_applied_whatever_its_name_is():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = srgb.replace("sRGB".encode("utf-16-be"), "Odd!".encode("utf-16-be"))
    assert other != srgb
    image = image_from_bytes(encoded("PNG", icc_profile=other))
    assert np.array_equal(image.pixels, SCENE)
    assert image.notes == ()


def test_profiles_in_palettes_alpha_grey_and_16_bits():
    icc = profile(1.0, "Linear")
    picture = Pillow.fromarray(SCENE).quantize(200)
    plain = np.asarray(picture.convert("RGB"))
    assert difference(image_from_bytes(png(picture, options={"icc_profile": icc})), to_srgb(plain / 255)) <= 2
    opaque = np.dstack([SCENE, np.full((48, 64), 255, np.uint8)])
    assert difference(image_from_bytes(encoded("PNG", opaque, icc_profile=icc)), LINEAR) <= 2
    packed = chunk(b"iCCP", b"any\0\0" + zlib.compress(icc))
    data = deep_png(np.rint(UNIT * 65535))
    assert difference(image_from_bytes(data[:33] + packed + data[33:]), LINEAR) <= 3
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.rint(UNIT * 65535).astype(np.uint16), photometric="rgb", iccprofile=icc)
    assert difference(image_from_bytes(stream.getvalue()), LINEAR) <= 3


def test_gamma_of_a_png():
    linear = chunk(b"gAMA", struct.pack(">I", 100_000))
    image = image_from_bytes(png(SCENE, linear))
    assert difference(image, LINEAR) <= 1
    assert any("gamma" in note for note in image.notes)
    grey = image_from_bytes(png(SCENE[..., 0], linear))
    assert difference(grey, LINEAR[..., :1]) <= 1
    usual = image_from_bytes(png(SCENE, chunk(b"gAMA", struct.pack(">I", 45455))))
    assert np.array_equal(usual.pixels, SCENE)
    assert usual.notes == ()
    srgb = image_from_bytes(png(SCENE, chunk(b"sRGB", b"\0"), linear))
    assert np.array_equal(srgb.pixels, SCENE), "sRGB counts more than gamma"
    profiled = image_from_bytes(png(SCENE, linear, options={"icc_profile": profile(2.0, "square")}))
    assert difference(profiled, to_srgb((SCENE / 255) ** 2)) <= 2, "a profile counts more than gamma"


def test_chromaticities_of_a_png():
    swapped = [31270, 32900, 15000, 6000, 30000, 60000, 64000, 33000]  # red and blue exchanged
    image = image_from_bytes(
        png(SCENE, chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"cHRM", struct.pack(">8I", *swapped)))
    )
    assert difference(image, SCENE[..., ::-1]) <= 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ((1, 13, 0, 1), SCENE),
        ((1, 8, 0, 1), LINEAR),
        ((1, 1, 0, 1), SCENE),
        ((1, 13, 0, 0), np.clip((SCENE.astype(float) - 16) * 255 / 219, 0, 255)),
    ],
)
def test_code_points_of_a_png(code, expected):
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    image = image_from_bytes(png(SCENE, chunk(b"cICP", bytes(code)), gamma))
    assert difference(image, expected) <= 1
    unknown = image_from_bytes(png(SCENE, chunk(b"cICP", bytes((1, 99, 0, 1)))))
    assert np.array_equal(unknown.pixels, SCENE)


def test_pq_and_wide_primaries():
    """White of 203 cd/m2 is white; greys stay grey; the red of BT.2020 is beyond sRGB and clipped to its red."""
    root = (203 / 10_000) ** 0.1593017578125
    white = ((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root)) ** 78.84375 * 255
    values = np.array([[[round(white)] * 3, [0, 0, 0], [255, 255, 255], [round(white), 0, 0]]], np.uint8)
    image = image_from_bytes(png(values, chunk(b"cICP", bytes((9, 16, 0, 1)))))
    assert image.pixels[0, 0].min() >= 250
    assert image.pixels[0, :3].std(axis=1).max() == 0
    assert image.pixels[0, 1].max() == 0
    assert image.pixels[0, 3].tolist()[1:] == [0, 0]
    assert image.pixels[0, 3, 0] > 240


# -- intact files ------------------------------------------------------------------------------------------------------


def test_what_stands_beside_the_pixels_makes_no_png_damaged():
    text = b"Comment\0" + b"x" * 3_000_000
    packed = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    large = struct.pack(">I", len(icc) + 3_000_000) + icc[4:] + bytes(3_000_000)
    for more in (
        [chunk(b"tEXt", text)],
        [chunk(b"zTXt", packed)],
        [chunk(b"tEXt", b"Comment\0wrong", crc=1)],
        [chunk(b"iCCP", b"large\0\0" + zlib.compress(large))],
        [chunk(b"iCCP", b"broken\0\0nothing")],
        [chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")],
        [chunk(b"teST", b"of somebody")],
    ):
        assert np.array_equal(image_from_bytes(png(SCENE, *more)).pixels, SCENE)
    damaged = bytearray(png(SCENE))
    damaged[damaged.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(ImageError, match="damaged"):
        image_from_bytes(bytes(damaged))


def test_a_transparent_colour_of_16_bits():
    values = np.rint(UNIT * 65535)
    values[5] = (1, 2, 3)
    data = deep_png(values)
    image = image_from_bytes(data[:33] + chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)) + data[33:])
    assert (image.pixels[5] == 255).all()
    assert np.abs(image.pixels.astype(int) - SCENE)[np.arange(48) != 5].max() <= 1


def test_interlaced_png_of_16_bits():
    """Adam7: seven passes over a growing part of the pixels."""
    values = np.rint(UNIT * 65535).astype(">u2")
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [values[top::down, left::across] for top, left, down, across in passes]
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for part in parts for row in part)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert difference(image_from_bytes(b"\x89PNG\r\n\x1a\n" + chunks), SCENE) <= 1


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_of_more_bits(bits):
    values = np.rint(UNIT * (2**bits - 1)).astype(np.uint16)
    options = {"lossless": True} if bits == 16 else {"level": 98, "subsampling": "444"}
    image = image_from_bytes(imagecodecs.jpeg_encode(values, bitspersample=bits, **options))
    assert difference(image, SCENE) <= (3 if bits == 12 else 1)
    assert image.mode == f"RGB, {bits} bit"


@pytest.mark.parametrize("values", [SCENE, SCENE[..., 0].copy()])
def test_lossless_jpeg_and_jpeg_ls(values):
    expected = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    lossless = imagecodecs.jpeg_encode(values, lossless=True)
    assert b"\xff\xc3" in lossless
    assert np.array_equal(image_from_bytes(lossless).pixels, expected)
    assert np.array_equal(image_from_bytes(imagecodecs.jpegls_encode(values)).pixels, expected)


def test_jpeg_ls_of_16_bits():
    values = np.rint(UNIT[..., 0] * 65535).astype(np.uint16)
    image = image_from_bytes(imagecodecs.jpegls_encode(values))
    assert difference(image, SCENE[..., :1]) <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("container", ["jp2", "j2k"])
def test_jpeg_2000_of_more_bits(bits, container):
    values = np.rint(UNIT * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    options = {"level": 0, "reversible": True, "bitspersample": bits, "codecformat": container}
    for stored, expected in ((values, SCENE), (values[..., 0].copy(), SCENE[..., :1])):
        data = imagecodecs.jpeg2k_encode(stored, **options)
        image = image_from_bytes(data)
        assert difference(image, expected) <= 1
        assert f"{bits} bit" in image.mode
        with pytest.raises(ImageError):
            image_from_bytes(data[: len(data) // 3])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_whole(progressive):
    data = encoded("JPEG", quality=95, progressive=progressive)
    whole = image_from_bytes(data)
    for cut in (1, 2):
        image = image_from_bytes(data[:-cut])
        assert np.array_equal(image.pixels, whole.pixels)
        assert any("end marker" in note for note in image.notes)
    for cut in (len(data) // 2, 60):
        with pytest.raises(ImageError, match="damaged or cut short"):
            image_from_bytes(data[:-cut])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 16, 9) + bytes(400), "not read here"),
        (b"\xff\xd8\xff\xc5\0\x11\x08\0\x08\0\x08\x03" + bytes(60), "a hierarchical JPEG"),
    ],
)
def test_other_kinds_are_named(data, words):
    with pytest.raises(ImageError) as caught:
        image_from_bytes(data)
    assert words in str(caught.value)
    assert "copy or download" not in str(caught.value)


def test_bitmaps_without_alpha_are_opaque():
    rgba = np.dstack([SCENE, np.zeros((48, 64), np.uint8)])
    for kind in ("TGA", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert np.array_equal(image_from_bytes(encoded(kind, rgba, **options)).pixels, SCENE)


# -- colours of TIFF ---------------------------------------------------------------------------------------------------


def test_lab_and_ycbcr_tiff():
    lab = ImageCms.profileToProfile(
        Pillow.fromarray(SCENE), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    stream = io.BytesIO()
    lab.save(stream, "TIFF")
    back = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.array_equal(image_from_bytes(stream.getvalue()).pixels, np.asarray(back))
    ycc = np.asarray(Pillow.fromarray(SCENE).convert("YCbCr"))
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, ycc, photometric="ycbcr", planarconfig="contig", metadata=None, extratags=[(530, "H", 2, (1, 1), True)]
    )
    assert difference(image_from_bytes(stream.getvalue()), SCENE) <= 3


@pytest.mark.parametrize(
    "compression", ["raw", "jpeg", "group3", "group4", "tiff_lzw", "packbits", "tiff_adobe_deflate"]
)
def test_what_libtiff_writes(compression):
    bilevel = compression in ("group3", "group4")
    picture = Pillow.fromarray(SCENE[..., 0] > 100) if bilevel else Pillow.fromarray(SCENE)
    stream = io.BytesIO()
    picture.save(stream, "TIFF", compression=compression)
    image = image_from_bytes(stream.getvalue())
    expected = np.asarray(picture.convert("RGB"))
    assert difference(image, expected) <= (12 if compression == "jpeg" else 0)
    assert image.mode == ("black and white, 1 bit" if bilevel else "RGB, 8 bit")
