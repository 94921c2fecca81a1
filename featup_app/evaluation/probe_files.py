"""Files of fitted probes, so that an interrupted evaluation need not fit them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from featup_app.evaluation.probes import LinearProbe
from featup_app.evaluation.segmentation import ProbeSet
from featup_app.export.staging import Staging


def write_probes(probes: ProbeSet, path: Path) -> None:
    """Write a set of probes (.npz), completely or not at all; an older file is replaced.

    Raises:
        ExportError: if the file cannot be written.
    """
    with Staging(overwrite=True) as files, files.add(path).open("wb") as stream:
        np.savez(
            stream,
            weights=torch.stack([probe.weights for probe in probes.probes]).numpy(),
            bias=torch.stack([probe.bias for probe in probes.probes]).numpy(),
            strength=np.array([probe.strength for probe in probes.probes]),
            classes=np.array(probes.classes),
            trained_on=np.array(probes.trained_on),
        )


def read_probes(path: Path) -> ProbeSet | None:
    """The probes in a file; None if it is missing or damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            parts = zip(stored["weights"], stored["bias"], stored["strength"], strict=True)
            probes = tuple(
                LinearProbe(torch.from_numpy(weights), torch.from_numpy(bias), float(strength))
                for weights, bias, strength in parts
            )
            return ProbeSet(probes, int(stored["classes"]), str(stored["trained_on"]))
    except Exception:  # noqa: BLE001 - a damaged file breaks the reader in any way, and is written anew
        return None
