"""``featup-app info`` and ``featup-app backbones``: versions, devices and pretrained models of this computer."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from featup_app.cli.options import AsJSON
from featup_app.cli.terminal import print_json, print_line, print_table


def info(as_json: AsJSON = False) -> None:
    """Show versions, devices, memory, folders, and whether the bundled weights are undamaged."""
    entries = _system_info()
    if as_json:
        print_json(entries)
        return
    del entries["memory_free_bytes"]
    for title, value in entries.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {entry or 'not installed'}" for name, entry in value.items())
        elif isinstance(value, list):
            value = ", ".join(str(entry) for entry in value) or "none"
        print_line(f"{title.replace('_', ' ') + ':':<18} {value}")


def _system_info() -> dict[str, Any]:
    """The values that ``info`` shows, by name, JSON-able."""
    import torch
    from huggingface_hub import constants

    import featup_app
    from featup_app.backbones import list_backbones
    from featup_app.base.words import human_bytes
    from featup_app.engine.memory import available_bytes
    from featup_app.engine.preferences import config_folder
    from featup_app.ops.cuda import cuda_status

    status = featup_app.ops.native_status()
    cuda = torch.cuda.is_available()
    return {
        "version": featup_app.__version__,
        "versions": {
            "python": platform.python_version(),
            **{title: _version(name) for title, name in _PACKAGES.items()},
        },
        "system": platform.platform(),
        "devices": [
            "cpu",
            *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count() * cuda)),
        ],
        "cuda": f"available, CUDA {torch.version.cuda}" if cuda else "not available",
        "threads": torch.get_num_threads(),
        "native": status.backend,
        "native_detail": status.detail,
        "cuda_operators": cuda_status(),
        "memory_free": human_bytes(available_bytes()),
        "memory_free_bytes": available_bytes(),
        "weights_cache": constants.HF_HUB_CACHE,
        "settings_folder": str(config_folder()),
        "bundled_weights": {entry.name: _weights_state(entry.bundled) for entry in list_backbones() if entry.bundled},
    }


_PACKAGES = {"torch": "torch", "timm": "timm", "numpy": "numpy", "Qt": "PySide6-Essentials"}


def _version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _weights_state(name: str) -> str:
    """State of a bundled file by its checksum: "ok", "missing", or "damaged"."""
    from featup_app.backbones.weights import file_sha256
    from featup_app.base.resources import resource

    try:
        path = resource("weights", name)
        sums = resource("weights", "SHA256SUMS").read_text(encoding="ascii")
    except FileNotFoundError:
        return "missing"
    expected = {line.split()[1].lstrip("*"): line.split()[0] for line in sums.splitlines() if line.strip()}
    return "ok" if file_sha256(path) == expected.get(name) else "damaged"


def backbones(as_json: AsJSON = False) -> None:
    """List the pretrained models: bundled with the program, already on this computer, or to be downloaded.

    Any other model of the timm library can be named as well.
    """
    from featup_app.backbones import list_backbones, status

    entries = [
        {
            "name": entry.name,
            "title": entry.title,
            "status": status(entry),
            "stride": entry.stride,
            "classes": entry.classes,
            "licence": entry.licence,
            "description": entry.description,
        }
        for entry in list_backbones()
    ]
    if as_json:
        print_json(entries)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "title", "weights", "stride", "licence"):
        table.add_column(title, no_wrap=title == "name", justify="right" if title == "stride" else "left")
    words = {"bundled": "bundled", "cached": "on this computer", "download": "needs a download"}
    for entry in entries:
        table.add_row(
            str(entry["name"]),
            str(entry["title"]),
            words[str(entry["status"])],
            str(entry["stride"]),
            str(entry["licence"]),
        )
    print_table(table)
