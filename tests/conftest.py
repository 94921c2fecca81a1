"""For all tests: OpenMP spins briefly, set before torch is loaded by any of them (DECISIONS: "Short spinning")."""

import os
import sys

import featup_app.engine  # noqa: F401

if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
