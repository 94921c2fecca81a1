"""Reference tensors of the published adaptive convolution: input, filters, output and both gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

NAMES = ("adaptive_conv.npz", "adaptive_conv_k3.npz")
OWN = Path(__file__).resolve().parents[1] / "data" / "golden"
COMPLETE = Path(__file__).resolve().parents[3] / "shared" / "golden"
"""Outside of the repository, where somebody put the complete tensors there."""


def golden(name: str, folder: Path = OWN, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; input and filters require gradients. Skips the test where there is no such file."""
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in {folder}")
    with np.load(folder / name, allow_pickle=False) as arrays:
        known = {key: torch.from_numpy(arrays[key]).to(dtype) for key in arrays.files}
    known["input"].requires_grad_()
    known["filters"].requires_grad_()
    return known


def agrees(known: dict[str, torch.Tensor], output: torch.Tensor) -> None:
    """Compare an output, and the gradients that were computed from it, with the reference."""
    torch.testing.assert_close(output, known["output"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(known["input"].grad, known["grad_input"], atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(known["filters"].grad, known["grad_filters"], atol=2e-5, rtol=1e-3)
    assert (known["filters"].grad.abs().amax(dim=(0, 1, 2)) > 0.1).all()  # every tap takes part in the comparison
