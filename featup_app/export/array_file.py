"""Tiles into their places in a (C, H, W) array that lies in a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from featup_app.base.errors import ExportError
from featup_app.features import Region, Size

if TYPE_CHECKING:
    from torch import Tensor


class TileWriter:
    """Writes the tiles of an output, which come row by row, from left to right.

    A tile is a short piece of each of its rows in each channel, and millions of short writes take as long as computing
    what is written. So tiles that stand side by side are put together until they fill whole rows, where memory allows.

    Args:
        stream: unbuffered file, already of its full size.
        start: byte at which the array begins.
        size: (H, W) of the output.
        memory_budget: bytes that the tiles waiting for their neighbours may take.
    """

    def __init__(self, stream: BinaryIO, start: int, size: Size, memory_budget: int) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._budget = memory_budget
        self._rows: NDArray[Any] | None = None

    def write(self, region: Region, tile: NDArray[Any]) -> None:
        """Put the values of a region, (C, region.height, region.width), into their place, now or with the next tiles."""
        width = self._size[1]
        if region.width == width or tile.nbytes // region.width * width > self._budget:
            self._put(region, tile)
            return
        if self._rows is None or self._rows.shape[1] != region.height:
            self._rows = np.empty((tile.shape[0], region.height, width), tile.dtype)
        self._rows[:, :, region.columns] = tile
        if region.right == width:
            self._put(Region(region.top, 0, region.height, width), self._rows)

    def _put(self, region: Region, tile: NDArray[Any]) -> None:
        data = np.ascontiguousarray(tile).reshape(-1).view(np.uint8).data
        whole_rows = region.width == self._size[1]
        pieces, rows = (1, region.height) if whole_rows else (region.height, 1)
        length = rows * region.width * tile.itemsize
        position = 0
        for channel in range(tile.shape[0]):
            for piece in range(pieces):
                row = channel * self._size[0] + region.top + piece
                offset = self._start + (row * self._size[1] + region.left) * tile.itemsize
                write_at(self._stream, offset, data[position : position + length])
                position += length


def write_at(stream: BinaryIO, offset: int, data: memoryview) -> None:
    """Write all of the data at a place in an unbuffered file."""
    while data:
        if hasattr(os, "pwrite"):
            written = os.pwrite(stream.fileno(), data, offset)
        else:  # Windows
            stream.seek(offset)
            written = stream.write(data)
        data, offset = data[written:], offset + written


def as_array(tile: Tensor, dtype: str) -> NDArray[Any]:
    """A tile in the type of the file, as numpy can hold it (bfloat16 as the 16 bit integers of its bytes).

    Raises:
        ExportError: if a finite value would become infinite.
    """
    import torch

    values = tile.detach().to(getattr(torch, dtype))
    if bool((values.isinf() & tile.isfinite()).any()):
        largest = float(tile[tile.isfinite()].abs().max())
        raise ExportError(
            f"The features reach {largest:.4g}, but {dtype} ends at {torch.finfo(values.dtype).max:.4g}; "
            "choose the type float32."
        )
    values = values.contiguous().cpu()
    array: NDArray[Any] = (values.view(torch.int16) if dtype == "bfloat16" else values).numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
