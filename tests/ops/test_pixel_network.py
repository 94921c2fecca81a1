"""The two layers at every pixel: compiled code against torch's convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from featup_app.ops.pixel_network import pixel_network, pixel_network_planes

pytestmark = pytest.mark.usefixtures("instruction_set")


def network(inputs, hidden, outputs, dtype, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(inputs, hidden, 1).to(dtype), nn.Conv2d(hidden, outputs, 1).to(dtype)


def in_torch(first, second, layers, skip, scale):
    layers = [copy.deepcopy(layer).double() for layer in layers]
    inputs = first if second is None else torch.cat([first, second], dim=1)
    output = scale * layers[1](torch.nn.functional.gelu(layers[0](inputs.double())))
    return (first.double() + output if skip else output).detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("sizes", [(49, 3, 49, 49), (3, 0, 32, 32), (1, 2, 3, 1), (5, 1, 7, 5)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 15), (2, 64), (2, 131)])
def test_equals_torch(sizes, height, width, dtype, tolerance):
    firsts, seconds, hidden, outputs = sizes
    generator = torch.Generator().manual_seed(1)
    first = 4 * torch.randn(2, firsts, height, width, generator=generator, dtype=dtype)
    second = torch.randn(2, seconds, height, width, generator=generator, dtype=dtype) if seconds else None
    layers = network(firsts + seconds, hidden, outputs, dtype)
    skip = firsts == outputs
    with torch.no_grad():
        found = pixel_network(first, second, layers, skip=skip, scale=0.3)
        part = pixel_network(
            first[..., width // 3 :],
            None if second is None else second[..., width // 3 :],
            layers,
            skip=skip,
            scale=0.3,
        )
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), in_torch(first, second, layers, skip, 0.3), atol=tolerance, rtol=tolerance
    )
    assert torch.equal(part, found[..., width // 3 :]), "a pixel depends on where the row was cut"


def test_far_arguments_of_the_gelu():
    layer = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.zero_()
        values = torch.tensor([0.0, -0.0, 1e-20, -1e-20, 5.0, -5.0, 40.0, -40.0, 1e30, -1e30]).view(1, 1, 1, -1)
        found = pixel_network(values, None, (layer, layer))
        torch.testing.assert_close(found, torch.nn.functional.gelu(values), atol=1e-6, rtol=1e-6)
        assert pixel_network(torch.full((1, 1, 1, 1), torch.nan), None, (layer, layer)).isnan().all()


def test_gradients_are_torchs():
    first = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(2))
    layers = network(2, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda x: pixel_network(x, None, layers, skip=True), (first,))
    pixel_network(first, None, layers).sum().backward()
    assert layers[0].weight.grad is not None


def test_the_operator_is_well_formed():
    arguments = (torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(15), torch.randn(5), torch.randn(10))
    torch.library.opcheck(pixel_network_planes, (*arguments, torch.randn(2), 1.0, 0.5))


def test_what_does_not_fit_is_named():
    good = [
        torch.zeros(1, 2, 3, 4),
        torch.zeros(1, 1, 3, 4),
        torch.zeros(15),
        torch.zeros(5),
        torch.zeros(10),
        torch.zeros(2),
    ]
    for index, wrong, words in (
        (1, torch.zeros(1, 1, 3, 5), "second has shape"),
        (2, torch.zeros(20), "weights1 has shape"),
        (1, torch.zeros(1, 1, 3, 4, dtype=torch.float64), "second must be"),
        (0, torch.zeros(1, 2, 3, 4, dtype=torch.float16), "first must be"),
    ):
        arguments = list(good)
        arguments[index] = wrong
        with pytest.raises(RuntimeError, match=words):
            pixel_network_planes(*arguments, 0.0, 1.0)
