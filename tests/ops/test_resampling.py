"""Resampling of parts of a map equals torch's interpolation and padding of the whole."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.ops.resampling import (
    bicubic_double,
    bilinear,
    linear_span,
    nearest,
    reflect_indices,
)

lengths = st.integers(1, 12)
seeds = st.integers(0, 2**16)


def random_map(channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, height, width, generator=generator, dtype=torch.float64)


def centres(count: int, length: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)


@settings(max_examples=60, deadline=None)
@given(height=lengths, width=lengths, channels=st.integers(1, 3), seed=seeds)
def test_bicubic_doubling_equals_interpolate(height, width, channels, seed):
    source = random_map(channels, height, width, seed)
    expected = F.interpolate(source[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
    rows, columns = torch.arange(2 * height), torch.arange(2 * width)
    found = bicubic_double(source, rows, columns, origin=(0, 0), lengths=(height, width))
    torch.testing.assert_close(found, expected)


@settings(max_examples=60, deadline=None)
@given(height=lengths, width=lengths, out=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=seeds)
def test_bilinear_equals_interpolate(height, width, out, seed):
    source = random_map(2, height, width, seed)
    expected = F.interpolate(source[None], out, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(bilinear(source, centres(out[0], height), centres(out[1], width)), expected)


@settings(max_examples=60, deadline=None)
@given(
    length=lengths, positions=st.lists(st.floats(-3, 15, allow_nan=False, width=32), min_size=1, max_size=8), seed=seeds
)
def test_linear_span_holds_what_bilinear_reads_and_no_more(length, positions, seed):
    source = random_map(1, length, 1, seed)
    rows, column = torch.tensor(positions, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    first, stop = linear_span(rows, length)
    assert 0 <= first < stop <= length
    outside = torch.full_like(source, math.nan)
    outside[:, first:stop] = source[:, first:stop]
    expected = bilinear(source, rows, column)
    torch.testing.assert_close(bilinear(outside, rows, column), expected)
    # A caller holds the span alone and moves the positions; the clamp at its edges must not bite.
    torch.testing.assert_close(bilinear(source[:, first:stop], rows - first, column), expected, atol=1e-6, rtol=1e-6)
    for edge in (first, stop - 1):
        poisoned = source.clone()
        poisoned[:, edge] = math.nan
        assert bilinear(poisoned, rows, column).isnan().any(), "the span holds an edge nobody reads"


@settings(max_examples=60, deadline=None)
@given(height=lengths, width=lengths, out=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=seeds)
def test_nearest_takes_the_cell_that_holds_the_pixel(height, width, out, seed):
    source = random_map(2, height, width, seed)
    found = nearest(source, centres(out[0], height), centres(out[1], width))
    assert found.shape == (2, *out)
    for i in range(out[0]):
        for j in range(out[1]):
            (row, on_row_edge), (column, on_column_edge) = (
                divmod((2 * i + 1) * height, 2 * out[0]),
                divmod((2 * j + 1) * width, 2 * out[1]),
            )
            if on_row_edge and on_column_edge:  # otherwise two cells are equally near
                assert torch.equal(found[:, i, j], source[:, row, column])


def test_nearest_outside_takes_the_edge():
    source = torch.arange(6.0).view(1, 2, 3)
    rows, columns = torch.tensor([-5.0, 0.0, 2.0, 9.0]), torch.tensor([-0.1, 3.0])
    expected = torch.tensor([[[0.0, 2.0], [0.0, 2.0], [3.0, 5.0], [3.0, 5.0]]])
    assert torch.equal(nearest(source, rows, columns), expected)


@given(length=st.integers(1, 9), before=st.integers(0, 40), after=st.integers(0, 40))
def test_reflected_indices_equal_reflect_padding_and_go_on_beyond_it(length, before, after):
    found = reflect_indices(-before, length + after, length)
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    assert found.tolist() == expected.tolist()
    if max(before, after) < length:  # as far as torch pads
        line = torch.arange(length, dtype=torch.float64)[None, None]
        assert found.tolist() == F.pad(line, (before, after), mode="reflect")[0, 0].tolist()


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 8, 9, 33]), height=lengths, width=lengths, out=st.tuples(lengths, lengths), seed=seeds
)
def test_compiled_bilinear_equals_plain_torch(channels, height, width, out, seed):
    source = random_map(channels, height, width, seed)
    rows, columns = centres(out[0], height), centres(out[1], width)
    expected = bilinear(source.clone().requires_grad_(), rows, columns).detach()  # gradients take the plain form
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = bilinear(source.to(dtype), rows, columns)
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
        last = source.to(dtype)[None].contiguous(memory_format=torch.channels_last)[0]
        assert torch.equal(bilinear(last, rows, columns), found)
        top, left = seed % out[0], seed % out[1]
        assert torch.equal(bilinear(source.to(dtype), rows[top:], columns[left:]), found[:, top:, left:])
