"""Labels and depths are read as they are stored."""

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from featup_app.images import stored_values

DEPTHS = np.random.default_rng(0).random((9, 13)).astype(np.float32) * 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
def test_depths_in_tiff(tmp_path, order, compression):
    tifffile.imwrite(tmp_path / "depth.tif", DEPTHS, byteorder=order, compression=compression)
    assert np.array_equal(stored_values(tmp_path / "depth.tif"), DEPTHS)


def test_indices_stay_indices(tmp_path):
    labels = np.arange(117, dtype=np.uint8).reshape(9, 13) % 7
    picture = Pillow.fromarray(labels)
    picture.putpalette(bytes(range(21)))
    for suffix in ("png", "tif"):
        picture.save(tmp_path / f"labels.{suffix}")
        assert np.array_equal(stored_values(tmp_path / f"labels.{suffix}"), labels)


def test_what_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, DEPTHS, compression="lzw")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"\S"):
        stored_values(path)
    tifffile.imwrite(path, DEPTHS.astype(np.complex64))
    with pytest.raises(ValueError, match="complex64"):
        stored_values(path)
