"""The bytes around an array in the three file formats, so that the array itself can be written in any order.

Each format is a prefix of known length, the array (C order, little endian), and what is written when that is complete.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO

import numpy as np

from featup_app.base.files import PROVENANCE
from featup_app.base.progress import Progress, silent

FEATURES = "features"
"""Name of the entry with the array; the other one is called :data:`~featup_app.base.files.PROVENANCE`."""

_BLOCK = 1 << 22
_DATE_1980 = 0x21
_ZIP64_VERSION = 45
_IN_EXTRA = 0xFFFFFFFF

SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NUMPY_TYPES = {"float32": "<f4", "float16": "<f2"}


def npy_prefix(shape: Sequence[int], dtype: str) -> bytes:
    """What stands before the values in a .npy file."""
    stream = BytesIO()
    header = {"descr": NUMPY_TYPES[dtype], "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def safetensors_prefix(shape: Sequence[int], dtype: str, byte_count: int, provenance: str) -> bytes:
    """What stands before the values in a .safetensors file: the length of the header, and the header."""
    entries = {
        "__metadata__": {PROVENANCE: provenance},
        FEATURES: {"dtype": SAFETENSORS_TYPES[dtype], "shape": list(shape), "data_offsets": [0, byte_count]},
    }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def npz_prefix(shape: Sequence[int], dtype: str, byte_count: int) -> bytes:
    """What stands before the values in a .npz file; its checksum is filled in by :func:`finish_npz`."""
    inner = npy_prefix(shape, dtype)
    return _local_header(f"{FEATURES}.npy", len(inner) + byte_count, 0) + inner


def finish_npz(stream: BinaryIO, size: int, provenance: str, progress: Progress = silent) -> None:
    """Complete a .npz file whose first member, ``size`` bytes with its own header, is in place.

    A stored zip member needs a checksum over its bytes in order, so they are read once more. Then come the provenance
    (a 0-d array of text, which needs no pickle) and the directory, in the 64 bit form that has no limit of size.
    """
    name = f"{FEATURES}.npy"
    start = len(_local_header(name, size, 0))
    checksum, done = 0, 0
    stream.seek(start)
    while done < size:
        progress("checking the file", done // _BLOCK, -(-size // _BLOCK))
        block = stream.read(min(_BLOCK, size - done))
        if not block:
            raise OSError(f"the file ends after {done} of {size} bytes")
        checksum = zlib.crc32(block, checksum)
        done += len(block)
    stream.seek(0)
    stream.write(_local_header(name, size, checksum))

    text = BytesIO()
    np.lib.format.write_array(text, np.array(provenance), allow_pickle=False)
    data = text.getvalue()
    second, second_start, second_checksum = f"{PROVENANCE}.npy", start + size, zlib.crc32(data)
    stream.seek(second_start)
    header = _local_header(second, len(data), second_checksum)
    stream.write(header + data)
    directory = _directory_entry(name, size, checksum, 0)
    directory += _directory_entry(second, len(data), second_checksum, second_start)
    stream.write(directory + _directory_end(2, len(directory), second_start + len(header) + len(data)))


def _local_header(name: str, size: int, checksum: int) -> bytes:
    """Zip local file header of a stored member with 64 bit sizes (APPNOTE 4.3.7, 4.5.3)."""
    extra = struct.pack("<HHQQ", 1, 16, size, size)
    fixed = (_ZIP64_VERSION, 0, 0, 0, _DATE_1980, checksum, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
    return struct.pack("<4s5H3L2H", b"PK\3\4", *fixed) + name.encode() + extra


def _directory_entry(name: str, size: int, checksum: int, start: int) -> bytes:
    """Zip central directory header (APPNOTE 4.3.12)."""
    extra = struct.pack("<HHQQQ", 1, 24, size, size, start)
    made_by, attributes = (3 << 8) | _ZIP64_VERSION, 0o600 << 16
    fixed = (made_by, _ZIP64_VERSION, 0, 0, 0, _DATE_1980, checksum, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *fixed, 0, 0, 0, attributes, _IN_EXTRA) + name.encode() + extra


def _directory_end(count: int, size: int, start: int) -> bytes:
    """Zip end of central directory: 64 bit record, its locator, and the old record (APPNOTE 4.3.14 to 4.3.16)."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, _ZIP64_VERSION, _ZIP64_VERSION, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    return record + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, _IN_EXTRA, 0)
