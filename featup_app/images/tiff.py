"""TIFF, BigTIFF, OME-TIFF and their kin: tifffile reads the structure, imagecodecs the compressed parts.

A page is one image plane. Plain files have one for each directory, and those of sub-directories follow. Where tifffile
knows how the planes of a file belong together (OME, ImageJ, its own files, microscopes), the axis C and the samples of a
pixel are channels, and every other axis (Z, T, ...) counts pages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featup_app.images import failures, tiff_colour
from featup_app.images.failures import NotReadError, cannot_open, check_pixels
from featup_app.images.raster import Mask, Raster, Samples, chosen_page, with_channels
from featup_app.images.selection import Selection

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_PLAIN = ("generic", "uniform")
"""Kinds of series in which every directory is a page of its own."""
_MASK = 4
"""Bit of NewSubfileType."""
_MOST_INNER = 1000
"""Sub-directories of a page that are looked at; damaged files have circles of them."""
_FAX, _OLD_JPEG = (2, 3, 4), 6
"""Compressions that old releases of imagecodecs, or all of them, leave to libtiff, which Pillow brings."""
_UNREADABLE = {32803: "raw data of a camera's sensor", 34892: "raw data of a camera's sensor", 32844: "LogL colours",
               32845: "LogLuv colours"}  # fmt: skip
"""Photometric interpretations that are not read."""


@dataclass(frozen=True)
class _Plane:
    """One page of the file.

    Attributes:
        page: the directory that describes it.
        channels: number of its channels: samples of a pixel times the length of the axis C.
        separate: whether the channels are those of the axis C, which have no common colour.
        read: makes (H, W, C) of all channels, or (H, W, K) of the K given.
    """

    page: TiffPage
    channels: int
    separate: bool
    read: Callable[[Sequence[int] | None], Samples]

    @property
    def area(self) -> int:
        """Pixels; 0 if the page is no picture that is read here."""
        page = self.page
        if _is_mask(page) or int(page.photometric or 0) in _UNREADABLE or page.dtype is None:
            return 0
        return int(page.imagewidth * page.imagelength)


def read(data: bytes, name: object, selection: Selection) -> Raster:
    """The page that ``selection`` names, the largest by default. Raises ImageError, NotReadError, or what tifffile raises."""
    import tifffile

    notes: list[str] = []
    _check_chain(data)
    with _without_liblj92(), tifffile.TiffFile(BytesIO(data)) as file:
        planes = _planes(file, data)
        if not planes:
            raise cannot_open(name, "it is a TIFF without a picture", "choose another file")
        fitting = [plane.area if plane.area <= failures.MAX_PIXELS else 0 for plane in planes]
        among = (
            " within the limit of pixels" if 0 in fitting and max(plane.area for plane in planes) > max(fitting) else ""
        )
        index = chosen_page(selection, fitting, name, notes, among=among)
        plane = planes[index]
        page = plane.page
        _check(plane, name)
        shown, alpha = tiff_colour.channels_of(page, plane.channels, plane.separate, selection, name)
        try:
            raster = tiff_colour.raster_of(page, plane.read, plane.channels, shown, alpha, notes)
        except NotImplementedError as error:  # subsampled colours
            raise NotReadError(f"a TIFF of a kind ({error})") from error
        except ImportError as error:
            raise NotReadError(f"a TIFF compressed with {_compression(page)}") from error
        raster.missing = _mask_of(file, page)
    raster.pages, raster.page = len(planes), index + 1
    return raster


def first_samples(data: bytes) -> Samples:
    """(H, W, C) samples of the first page, as stored. Raises NotReadError, or what tifffile raises."""
    import tifffile

    _check_chain(data)
    with _without_liblj92(), tifffile.TiffFile(BytesIO(data)) as file:
        planes = _planes(file, data)
        if not planes:
            raise ValueError("it is a TIFF without a picture")
        _check(planes[0], "")
        return planes[0].read(None)


@contextmanager
def _without_liblj92() -> Iterator[None]:
    """Keep imagecodecs from a library that it tries on JPEG data that libjpeg refuses: damaged data make it end the process.

    This setting is global; the lock around all decoding keeps others from seeing it.
    """
    import imagecodecs

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("not tried")

    before = imagecodecs.ljpeg_decode
    imagecodecs.ljpeg_decode = refuse
    try:
        yield
    finally:
        imagecodecs.ljpeg_decode = before


def _check_chain(data: bytes) -> None:
    """Raises ValueError if the directories of a file form a circle, which tifffile would follow for ever."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    width, entry, counted = (8, 20, 8) if big else (4, 12, 2)

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)

    seen: set[int] = set()
    offset = number(8 if big else 4, width)
    while 0 < offset < len(data):
        if offset in seen:
            raise ValueError("its directories form a circle")
        seen.add(offset)
        offset = number(offset + counted + entry * number(offset, counted), width)


# -- pages -----------------------------------------------------------------------------------------------------------


def _planes(file: TiffFile, data: bytes) -> list[_Plane]:
    pages = [page for page in file.pages if not _is_mask(page)]
    series = file.series
    if series and series[0].kind not in _PLAIN:
        found = [plane for each in series for plane in _planes_of(each)]
        if found:
            return found
    planes = [_single(page.aspage(), data, index) for index, page in enumerate(pages)]
    for page in pages:
        inner = itertools.islice(page.aspage().pages or (), _MOST_INNER)
        planes += [_single(each.aspage(), data, None) for each in inner if not _is_mask(each)]
    return planes


def _single(page: TiffPage, data: bytes, index: int | None) -> _Plane:
    """A directory as a page; ``index`` counts it among those of the file, and is None in a sub-directory."""

    def samples(channels: Sequence[int] | None) -> Samples:
        if index is not None and _is_left_to_pillow(page):
            values = _by_pillow(data, index)
        else:
            values = _samples(page, page.asarray(squeeze=False))
        return values if channels is None else values[..., list(channels)]

    return _Plane(page, page.samplesperpixel, False, samples)


def _planes_of(series: TiffPageSeries) -> list[_Plane]:
    """The pages of a series whose axes are known."""
    keyframe, axes, shape = series.keyframe, series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    lengths = dict(zip(axes, shape, strict=True))
    if len(lengths) != len(axes) or not {"Y", "X"} <= lengths.keys():
        return []
    samples = lengths.get("S", 1)
    outer = [axis for axis in axes if axis not in "YXS"]
    stored = tuple(lengths[axis] for axis in outer)
    counted = [axis for axis in outer if axis != "C"]
    count, colours = int(np.prod([lengths[axis] for axis in counted], dtype=np.int64)), lengths.get("C", 1)
    if len(outer) + 2 + ("S" in lengths) != len(axes) or count * colours > 1_000_000:
        return []
    loose = len(series.pages) == count * colours and keyframe.imagedepth == 1

    def reader(number: int) -> Callable[[Sequence[int] | None], Samples]:
        where = dict(zip(counted, np.unravel_index(number, [lengths[axis] for axis in counted]), strict=True))

        def plane(channel: int) -> Samples:
            position = tuple(int(where.get(axis, channel)) for axis in outer)
            if loose:
                page = series.pages[int(np.ravel_multi_index(position, stored)) if stored else 0]
                if page is None:
                    raise NotReadError("a part of an image whose other planes lie in other files")
                return _samples(keyframe, page.asarray(squeeze=False))
            whole = series.asarray(squeeze=False)
            ordered = np.moveaxis(whole, [axes.index(axis) for axis in outer], range(len(outer)))[position]
            rest = [axis for axis in axes if axis not in outer]
            return np.moveaxis(ordered, rest.index("S"), -1) if "S" in rest else ordered[..., None]

        def read(channels: Sequence[int] | None) -> Samples:
            wanted = range(colours * samples) if channels is None else channels
            kept = {outside: plane(outside) for outside in sorted({each // samples for each in wanted})}
            return np.stack([kept[each // samples][..., each % samples] for each in wanted], axis=-1)

        return read

    return [_Plane(keyframe.aspage(), colours * samples, colours > 1, reader(number)) for number in range(count)]


def _samples(page: TiffPage, values: Samples) -> Samples:
    """(H, W, C) of tifffile's (planes, depth, H, W, samples)."""
    if values.ndim != 5 or values.shape[1] != 1:
        raise NotReadError("a TIFF volume within one page")
    values = values[:, 0]
    return values[0] if values.shape[0] == 1 else np.moveaxis(values[..., 0], 0, -1)


def _is_left_to_pillow(page: TiffPage) -> bool:
    import imagecodecs

    compression = int(page.compression)
    subsampled = page.is_subsampled and compression not in (7, 34892, 33007)
    fax = compression in _FAX and not hasattr(imagecodecs, "ccittfax4_decode")
    return fax or compression == _OLD_JPEG or subsampled


def _by_pillow(data: bytes, index: int) -> Samples:
    """A page of 8 bits or one bit as libtiff gives it, with colours already in RGB."""
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        source: Picture = pillow.open(BytesIO(data), formats=["TIFF"])
        source.seek(index)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise NotReadError("a TIFF with subsampled colours, or old codes for JPEG or fax,") from error
    source.load()
    if source.mode not in ("1", "L", "RGB"):
        source = source.convert("RGB")
    return with_channels(np.asarray(source))


# -- what a page holds -----------------------------------------------------------------------------------------------


def _is_mask(page: Any) -> bool:
    kind = getattr(page, "subfiletype", 0)  # the frames of a series have none
    return bool(int(kind or 0) & _MASK) or int(getattr(page, "photometric", 0) or 0) == _MASK


def _mask_of(file: TiffFile, page: TiffPage) -> Mask | None:
    """Where the mask that follows a page in the file says that there are no data."""
    for other in file.pages:
        if _is_mask(other) and other.offset > page.offset and other.shape == (page.imagelength, page.imagewidth):
            return np.asarray(other.asarray() == 0)
    return None


def _compression(page: TiffPage) -> str:
    return str(getattr(page.compression, "name", page.compression))


def _check(plane: _Plane, name: object) -> None:
    """Raises ImageError or NotReadError for what cannot be read, before anything is decoded."""
    import tifffile

    page = plane.page
    kind = _UNREADABLE.get(int(page.photometric or 0))
    if kind is not None:
        raise NotReadError(f"{kind} in a TIFF")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise NotReadError(f"a TIFF of {page.dtype or 'unknown'} samples")
    formats = page.tags.valueof(339) or ()
    if not isinstance(formats, int) and len(set(formats)) > 1:
        raise NotReadError("a TIFF whose samples are of several types")
    if int(page.compression) != 1 and int(page.compression) not in (*_FAX, _OLD_JPEG):
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError as error:
            raise NotReadError(f"a TIFF compressed with {_compression(page)}") from error
    check_pixels(page.imagewidth, page.imagelength, name, sample_bytes=plane.channels * page.dtype.itemsize)
    _check_length(page)


def _check_length(page: TiffPage) -> None:
    """Raises EOFError if compressed parts lie beyond the end of the file, which some codecs would fill with grey."""
    size = page.parent.filehandle.size
    if int(page.compression) == 1:
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > size:
            raise EOFError("the file ends before its pixels do")
