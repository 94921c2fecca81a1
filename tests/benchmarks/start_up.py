"""Seconds from starting the process to the window and to each of its first pictures.

``python tests/benchmarks/start_up.py [--runs N] [--image FILE]`` prints one JSON object with the medians and all runs. Without
a display it measures Qt's offscreen platform (and says so). Preferences of a temporary folder, so a first start is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

_CHILD = """
import json, os, sys, time
from PySide6.QtCore import QTimer
begun = float(os.environ["FEATUP_STARTED"])
from featup_app.gui import app, window

seen = {}

def note(name):
    seen.setdefault(name, round(time.time() - begun, 3))

class Timed(window.MainWindow):
    def __init__(self, preferences):
        super().__init__(preferences)
        self.studio.image_changed.connect(lambda _: note("image"))
        self.studio.view_ready.connect(lambda name, view: self.drawn(name))

    def paintEvent(self, event):
        super().paintEvent(event)
        if "window" not in seen:
            note("window")
            seen["torch_before_window"] = "torch" in sys.modules

    def drawn(self, name):
        self.repaint()
        note(name)
        if {"pca", "cam", "similarity"} <= set(seen):
            QTimer.singleShot(0, self.close)

app.MainWindow = Timed
app.main(*sys.argv[1:2], fresh=True)
print(json.dumps(seen))
"""


def measure(image: str | None) -> dict[str, float]:
    """One start of the program."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"FEATUP_CONFIG_DIR": folder, "FEATUP_STARTED": repr(time.time())}
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            environment["QT_QPA_PLATFORM"] = "offscreen"
        command = [sys.executable, "-c", _CHILD, *([image] if image else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image")
    arguments = parser.parse_args()
    runs = [measure(arguments.image) for _ in range(arguments.runs)]
    names = ("window", "image", "pca", "cam", "similarity")
    medians = {name: statistics.median(run[name] for run in runs) for name in names}
    platform = "display" if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else "offscreen"
    print(json.dumps({"median_s": medians, "runs": runs, "platform": platform, "load": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()
