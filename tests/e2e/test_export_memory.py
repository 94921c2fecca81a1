"""A large export needs little memory. ``python tests/e2e/test_export_memory.py`` prints the figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.images import sample_images

LIMIT = 1.5e9
SIDE = 2048

_CHILD = """
import json, sys
from featup_app.cli.main import run

def resident(name):
    if sys.platform.startswith("linux"):  # not getrusage: its peak begins with the memory of the parent process
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    import psutil
    facts = psutil.Process().memory_info()
    if name == "VmHWM" and not hasattr(facts, "peak_wset"):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return facts.peak_wset if name == "VmHWM" else facts.rss

start = resident("VmRSS")  # before torch: the library itself counts
try:
    run(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps({"start": start, "peak": resident("VmHWM")}))
"""


def export_large(folder: Path) -> tuple[Path, float, float]:
    """Export 2048x2048x384 in float16: the file, peak bytes above start-up, seconds."""
    photo = folder / "photo.jpg"
    with pillow.open(sample_images()[2]) as picture:
        picture.resize((SIDE, SIDE)).save(photo)
    arguments = ["export", photo, "-o", folder, "--output-size", f"{SIDE}x{SIDE}", "--dtype", "float16"]
    began = time.monotonic()
    child = [sys.executable, "-c", _CHILD, *map(str, arguments)]
    lines = subprocess.run(child, check=True, capture_output=True, text=True, timeout=1800).stdout.splitlines()
    memory = json.loads(lines[-1])
    return Path(lines[0]), memory["peak"] - memory["start"], time.monotonic() - began


@pytest.mark.slow
def test_a_large_export_stays_within_its_memory(tmp_path):
    path, peak, seconds = export_large(tmp_path)
    print(f"\n{SIDE}x{SIDE}x384 float16: {peak / 1e6:.0f} MB above start-up, {seconds:.0f} s")
    assert peak < LIMIT
    with np.load(path) as archive:
        assert "features" in archive.files
    # Channel by channel: the whole array, 3.2 GB, would be most of what the test process ever holds.
    with zipfile.ZipFile(path) as archive, archive.open("features.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        assert shape == (384, SIDE, SIDE)
        assert dtype == np.float16
        for channel in range(shape[0]):
            features = np.frombuffer(file.read(SIDE * SIDE * dtype.itemsize), dtype).reshape(SIDE, SIDE)
            # Nothing is left unwritten: no row or column of a channel is all zero.
            assert channel not in (0, 200, 383) or all(np.abs(features).max(axis=axis).all() for axis in (0, 1))
        assert not file.read()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        _, most, duration = export_large(Path(scratch))
    print(f"{SIDE}x{SIDE}x384 float16: {most / 1e6:.0f} MB above start-up, {duration:.0f} s")
