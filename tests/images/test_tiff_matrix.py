"""Thousands of small TIFF files of every kind: each is right or refused in a sentence, and twice the same.

The values are known before they are stored, so that no reader is compared with itself.
"""

import io
import itertools

import numpy as np
import pytest
import tifffile
from scene import stored_as, unit_scene

from featup_app.base.errors import ImageError
from featup_app.images.decoding import decode

ALPHA = 0.6
UNIT = unit_scene()[::2, ::2]  # 24 x 32
TYPES = ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
COLOURS = (
    "black is zero",
    "white is zero",
    "rgb",
    "rgb and more",
    "alpha",
    "associated",
    "five bands",
    "palette",
    "cmyk",
)
LAYOUTS = (
    ("<", {}),
    (">", {}),
    (">", {"rowsperstrip": 5}),
    ("<", {"tile": (16, 16)}),
    (">", {"tile": (32, 16), "bigtiff": True}),
)
LOSSLESS = (
    "none",
    "lzw",
    "deflate",
    "packbits",
    "zstd",
    "lzma",
    "lzw+",
    "deflate+",
    "zstd+",
    "jpegxl",
    "png",
    "jpeg2000",
)
LOSSY = {"jpeg": 8, "webp": 0, "lerc": 0}
NATIVE_ORDER = ("lerc", "png", "jpeg2000", "jpegxl")
"""Codecs that tifffile does not write in big-endian files."""


def samples(colours: str, dtype: str):
    """(H, W, C) values, what they show from 0 to 1 as (H, W, 3), and the options for writing."""
    grey, rgb = UNIT[..., :1], UNIT
    shown = np.repeat(grey, 3, axis=2) if colours in ("black is zero", "white is zero") else rgb
    high = 1.0
    if colours == "black is zero":
        return stored_as(grey, dtype), shown, {"photometric": "minisblack"}
    if colours == "white is zero":
        return stored_as(high - grey, dtype), shown, {"photometric": "miniswhite"}
    if colours == "rgb":
        return stored_as(rgb, dtype), shown, {"photometric": "rgb"}
    if colours == "rgb and more":
        values = np.concatenate([rgb, 1 - grey], axis=2)
        return stored_as(values, dtype), shown, {"photometric": "rgb", "extrasamples": ["unspecified"]}
    if colours == "five bands":
        values = np.concatenate([rgb, grey * 0.5, 1 - grey], axis=2)
        return stored_as(values, dtype), shown, {"photometric": "minisblack", "extrasamples": [0] * 4}
    if colours == "cmyk":
        values = np.concatenate([1 - rgb, np.zeros_like(grey)], axis=2)
        return stored_as(values, dtype), shown, {"photometric": "separated"}
    alpha = np.full(grey.shape, ALPHA)
    associated = colours == "associated"
    values = np.concatenate([rgb * ALPHA if associated else rgb, alpha], axis=2)
    kind = ["assocalpha" if associated else "unassalpha"]
    return stored_as(values, dtype), rgb * ALPHA + 1 - ALPHA, {"photometric": "rgb", "extrasamples": kind}


def palette(dtype: str):
    """Indices of a palette, what they show, and the options for writing."""
    count = 256 if dtype == "u1" else 65536
    indices = np.arange(UNIT[..., 0].size).reshape(UNIT.shape[:2]) % 251
    table = np.random.default_rng(0).integers(0, 256, (3, count)).astype(np.uint16) * 257
    shown = np.moveaxis(table[:, indices], 0, -1) / 65535
    return indices.astype(dtype)[..., None], shown, {"photometric": "palette", "colormap": table}


def possible(colours: str, dtype: str, compression: str, planes: str) -> bool:
    """Whether the file makes sense at all, and tifffile writes it."""
    kind, name = np.dtype(dtype), compression.rstrip("+")
    if dtype == "bool" and (
        colours not in ("black is zero", "white is zero") or compression not in ("none", "packbits")
    ):
        return False
    if colours == "palette" and (dtype not in ("u1", "u2") or planes == "separate"):
        return False
    if colours in ("alpha", "associated", "cmyk") and kind.kind == "i":
        return False  # opacity and ink have no sign
    if planes == "separate" and colours in ("black is zero", "white is zero"):
        return False
    if compression.endswith("+") and (colours == "palette" or (kind.kind == "f" and dtype == "f2")):
        return False
    if name == "jpeg":
        return dtype == "u1" and colours in ("black is zero", "rgb")
    if name == "webp":
        return dtype == "u1" and colours in ("rgb", "alpha") and planes == "contig"
    if name == "lerc":
        return dtype in ("u1", "u2", "i2", "u4", "f4") and colours in ("black is zero", "rgb")
    if name == "png":
        return dtype in ("u1", "u2") and colours in ("black is zero", "rgb", "alpha")
    if name == "jpeg2000":
        return dtype in ("u1", "u2") and colours in ("black is zero", "rgb", "rgb and more")
    if name == "jpegxl":
        return dtype in ("u1", "u2", "f2", "f4") and colours in ("black is zero", "rgb")
    return True


def written(values, options, compression: str, planes: str, order: str, layout) -> bytes:
    options = options | dict(layout)
    name = compression.rstrip("+")
    if name != "none":
        options["compression"] = name
    if compression.endswith("+"):
        options["predictor"] = 3 if values.dtype.kind == "f" else 2
    if name == "jpegxl":
        options["compressionargs"] = {"lossless": True}
    if name == "jpeg" and values.shape[2] == 3 and planes == "contig":
        options["subsampling"] = (1, 1)
    if name == "webp":
        options["compressionargs"] = {"level": 100, "lossless": True}
    if name == "jpeg2000":
        options["compressionargs"] = {"level": 0, "reversible": True}
    if values.shape[2] > 1:
        options["planarconfig"] = planes
        values = np.moveaxis(values, 2, 0) if planes == "separate" else values
    else:
        values = values[..., 0]
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, byteorder=order, metadata=None, **options)
    return stream.getvalue()


def wrong(data: bytes, shown, tolerance: int) -> str | None:
    """What is wrong with the picture of a file; None if it is right."""
    first, second = decode(data, "matrix.tif"), decode(data, "matrix.tif")
    if not np.array_equal(first.pixels, second.pixels):
        return "another picture at the second call"
    if first.missing is not None:
        return "pixels are said to be without data"
    off = int(np.abs(first.pixels.astype(int) - np.rint(shown * 255)).max())
    return f"off by {off}" if off > tolerance else None


@pytest.mark.parametrize("dtype", TYPES)
def test_every_kind_of_tiff_is_right_or_refused(dtype):
    failures, count = [], 0
    for colours, compression, planes in itertools.product(COLOURS, (*LOSSLESS, *LOSSY), ("contig", "separate")):
        if not possible(colours, dtype, compression, planes):
            continue
        values, shown, options = palette(dtype) if colours == "palette" else samples(colours, dtype)
        if dtype == "bool":
            shown = np.rint(shown)
        native = compression in NATIVE_ORDER and np.dtype(dtype).itemsize > 1
        for order, layout in LAYOUTS:
            order = "<" if native else order
            label = f"{dtype} {colours}, {planes}, {compression}, {order}, {layout}"
            try:
                data = written(values, options, compression, planes, order, layout)
            except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
                failures.append(f"{label}: not written: {error}")
                continue
            count += 1
            try:
                found = wrong(data, shown, 1 + LOSSY.get(compression.rstrip("+"), 0))
            except ImageError as error:
                found = f"refused: {error}"
            if found:
                failures.append(f"{label}: {found}")
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:40])
    assert count >= (16 if dtype == "bool" else 150)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_packed_samples(bits):
    """Bits that fill no bytes: white is the largest value that they can hold."""
    values = np.rint(UNIT[..., 0] * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    packed = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=2)[..., 16 - bits :]
    rows = np.packbits(packed.reshape(len(values), -1), axis=1)
    tags = [
        (256, values.shape[1]),
        (257, values.shape[0]),
        (258, bits),
        (259, 1),
        (262, 1),
        (277, 1),
        (278, values.shape[0]),
    ]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = sorted([*tags, (273, start), (279, rows.nbytes)])
    directory = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in entries
    )
    data = b"II*\0\10\0\0\0" + len(entries).to_bytes(2, "little") + directory + bytes(4) + rows.tobytes()
    assert wrong(data, np.repeat(values[..., None], 3, axis=2) / (2**bits - 1), 1) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": 32803, "dtype": "u2"}, "raw data of a camera's sensor"),
        ({"dtype": "c8"}, "complex64 samples"),
        ({"dtype": "u2", "compression": 65432}, "compressed with 65432"),
    ],
)
def test_what_is_not_read_is_not_called_damaged(options, words):
    values = np.ones((8, 8), options["dtype"])
    stream = io.BytesIO()
    extra = [] if "photometric" not in options else [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    tifffile.imwrite(
        stream, values, photometric=options.get("photometric", "minisblack"), extratags=extra, metadata=None
    )
    data = bytearray(stream.getvalue())
    if "compression" in options:
        entry = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")
        data[entry + 8 : entry + 10] = options["compression"].to_bytes(2, "little")
    with pytest.raises(ImageError) as caught:
        decode(bytes(data), "odd.tif")
    assert words in str(caught.value)
    assert "damaged" not in str(caught.value)
