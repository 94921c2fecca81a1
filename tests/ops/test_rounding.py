"""Window weights in float16 keep their sums, and are the same compiled and in plain torch."""

from __future__ import annotations

import pytest
import torch

from featup_app.ops import loading
from featup_app.ops.rounding import round_weights, round_weights_compiled


def random_weights(width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.softmax(3 * torch.randn(2, 49, 3, width, generator=generator), dim=1)


@pytest.mark.parametrize("choice", ["baseline", "AVX2", "AVX-512"])
@pytest.mark.parametrize("width", [1, 8, 15, 16, 17, 70])
def test_sums_stay_and_every_tap_is_near(choice, width, monkeypatch):
    library = loading.library()
    if library.featup_use_instruction_set(choice.encode()) is not None:
        pytest.skip(f"this processor has no {choice}")
    try:
        weights = random_weights(width)
        rounded = round_weights(weights)
        assert rounded.dtype == torch.float16
        assert torch.equal(round_weights(weights.repeat_interleave(2, dim=3)[..., ::2]), rounded)
        assert float((rounded.double() - weights.double()).abs().max()) < 5e-4
        lost = rounded.double().sum(dim=1) - weights.double().sum(dim=1)
        alone = weights.half().double().sum(dim=1) - weights.double().sum(dim=1)
        assert float(lost.abs().max()) <= 2.0**-11 * float(weights[:, -1].max()) + 3e-7
        assert width < 15 or float(lost.abs().mean()) < 0.1 * float(alone.abs().mean())
        monkeypatch.setenv("FEATUP_NATIVE", "off")
        assert torch.equal(round_weights(weights), rounded)
    finally:
        library.featup_use_instruction_set(b"best")


def test_the_operator_is_well_formed():
    torch.library.opcheck(round_weights_compiled, (random_weights(5),))


def test_what_does_not_fit_is_named():
    for weights in (torch.zeros(1, 49, 2, 2, dtype=torch.float64), torch.zeros(49, 2, 2)):
        with pytest.raises(RuntimeError, match="weights has shape"):
            round_weights(weights)
