"""The operators against the published ones, against unfolding, and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from adaptive_conv_golden import COMPLETE, NAMES, OWN, agrees, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app import ops

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unfolded(padded: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """The per-pixel convolution as its definition says, with a copy of the input for each tap."""
    batch, height, width, kernel_size, _ = filters.shape
    patches = F.unfold(padded, kernel_size).view(batch, padded.shape[1], kernel_size**2, height, width)
    return torch.einsum("bcthw,bhwt->bchw", patches, filters.reshape(batch, height, width, kernel_size**2))


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values with other strides."""
    if layout == "channels last":
        order = (0, *range(2, tensor.dim()), 1)
        return tensor.permute(order).contiguous().permute(0, tensor.dim() - 1, *range(1, tensor.dim() - 1))
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "every second":
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2), math.nan, dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


@pytest.mark.parametrize("folder", [OWN, COMPLETE], ids=["own", "shared"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_conv_reproduces_the_published_one_with_both_gradients(name, folder, dtype):
    known = golden(name, folder, dtype)
    output = ops.adaptive_conv(known["input"], known["filters"])
    output.backward(known["grad_output"])
    agrees(known, output)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    layouts=st.tuples(*[st.sampled_from(["plain", "channels last", "transposed", "every second"])] * 2),
    seed=st.integers(0, 2**16),
)
def test_window_operators_agree_with_unfolding(batch, channels, size, kernel_size, layouts, seed):
    height, width = size
    padded = random(batch, channels, height + kernel_size - 1, width + kernel_size - 1, seed=seed)
    filters = random(batch, height, width, kernel_size, kernel_size, seed=seed + 1)
    expected = unfolded(padded, filters)
    padded, filters = laid_out(padded, layouts[0]), laid_out(filters, layouts[1])
    found = ops.adaptive_conv(padded, filters)
    assert found.shape == (batch, channels, height, width)
    torch.testing.assert_close(found, expected)
    weights = filters.flatten(3).permute(0, 3, 1, 2)
    torch.testing.assert_close(ops.window_sum(padded, laid_out(weights, layouts[0])), expected)

    keys = laid_out(padded, layouts[1])
    radius = kernel_size // 2
    centre = keys[..., radius : radius + height, radius : radius + width]
    patches = F.unfold(padded, kernel_size).view(batch, channels, kernel_size**2, height, width)
    expected = torch.softmax(0.7 * torch.einsum("bcthw,bchw->bthw", patches, centre), dim=1)
    found = ops.range_softmax(keys, 0.7, kernel_size)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(batch, height, width, dtype=torch.float64))


@pytest.mark.parametrize("channels", [1, 9, 70])
def test_a_single_column_may_have_any_stride(channels):
    padded = random(1, channels, 3, 1)
    apart = padded.repeat_interleave(2, dim=3)[..., ::2]
    assert apart.stride(3) == 2
    weights = random(1, 1, 3, 1, seed=1)
    assert torch.equal(ops.range_softmax(apart, 0.7, 1), ops.range_softmax(padded, 0.7, 1))
    assert torch.equal(ops.window_sum(apart, weights), ops.window_sum(padded, weights))
    assert torch.equal(
        ops.window_sum(padded, weights.repeat_interleave(2, dim=3)[..., ::2]), ops.window_sum(padded, weights)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    padded, filters = random(1, 2, 5, 6, dtype=dtype), random(1, 3, 4, 3, 3, dtype=dtype)
    assert ops.adaptive_conv(padded, filters).dtype == dtype
    assert ops.range_softmax(padded, 1.0, 3).dtype == dtype


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2)])
def test_gradients_equal_finite_differences(kernel_size, height, width):
    edge = kernel_size - 1
    padded = random(2, 2, height + edge, width + edge, seed=1).requires_grad_()
    filters = random(2, height, width, kernel_size, kernel_size, seed=2).requires_grad_()
    weights = random(2, kernel_size**2, height, width, seed=3).requires_grad_()
    temperature = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.adaptive_conv, (padded, filters))
    assert torch.autograd.gradcheck(ops.window_sum, (padded, weights))
    assert torch.autograd.gradcheck(lambda keys, t: ops.range_softmax(keys, t, kernel_size), (padded, temperature))


def test_neither_argument_is_changed():
    padded, filters = random(1, 2, 6, 7), random(1, 4, 5, 3, 3)
    before = padded.clone(), filters.clone()
    ops.adaptive_conv(padded, filters)
    ops.range_softmax(padded, 1.0, 3)
    assert torch.equal(padded, before[0])
    assert torch.equal(filters, before[1])


@pytest.mark.parametrize(
    ("padded", "filters", "named"),
    [
        ((1, 2, 6, 7), (1, 4, 5, 3), "filters"),
        ((1, 2, 6, 7), (1, 4, 5, 3, 5), "filters"),
        ((1, 2, 6, 7), (1, 3, 4, 4, 4), "filters"),
        ((2, 6, 7), (1, 4, 5, 3, 3), "input"),
        ((1, 2, 6, 8), (1, 4, 5, 3, 3), "input"),
        ((3, 2, 6, 7), (1, 4, 5, 3, 3), "input"),
    ],
)
def test_adaptive_conv_names_the_argument_that_does_not_fit(padded, filters, named):
    with pytest.raises(RuntimeError, match=rf"^{named} has shape \({padded[0] if named == 'input' else filters[0]}, "):
        ops.adaptive_conv(torch.zeros(padded), torch.zeros(filters))


@pytest.mark.parametrize(
    ("padded", "weights", "named"),
    [
        ((1, 2, 6, 7), (1, 8, 4, 5), "weights"),
        ((1, 2, 6, 7), (1, 16, 3, 4), "weights"),
        ((1, 2, 6, 7), (9, 4, 5), "weights"),
        ((1, 2, 6, 8), (1, 9, 4, 5), "padded"),
        ((2, 6, 7), (1, 9, 4, 5), "padded"),
        ((7,), (1, 9, 4, 5), "padded"),
    ],
)
def test_window_sum_names_the_argument_that_does_not_fit(padded, weights, named):
    with pytest.raises(RuntimeError, match=rf"^{named} has "):
        ops.window_sum(torch.zeros(padded), torch.zeros(weights))


@pytest.mark.parametrize(
    ("keys", "kernel_size", "named"), [((1, 2, 8, 8), 4, "kernel_size"), ((1, 2, 4, 8), 5, "keys"), ((8, 8), 3, "keys")]
)
def test_range_softmax_names_the_argument_that_does_not_fit(keys, kernel_size, named):
    with pytest.raises(RuntimeError, match=rf"^{named} "):
        ops.range_softmax(torch.zeros(keys), 1.0, kernel_size)


def test_the_status_says_what_runs():
    status = ops.native_status()
    assert status.backend
    assert len(status.backend) < 24, "it stands in a status bar"
    assert status.detail.endswith(".")
    assert status == ops.native_status()


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_operator"):
        _ = ops.no_such_operator
