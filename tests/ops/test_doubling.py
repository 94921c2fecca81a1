"""The guided doubling in one pass equals doubling, padding and window sum one after the other, for every part of a map."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.ops.doubling import Place, coarse_span, guided_double, guided_double_into
from featup_app.ops.reference import window_sum


def expected_double(source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Torch's own doubling and the reference of the window sum, in float64; maps of one line padded by repeated mirroring."""
    source, weights = source.double(), weights.double()
    fine = F.interpolate(source, scale_factor=2, mode="bicubic", align_corners=False)
    lines = [torch.arange(-3, length + 3) for length in fine.shape[2:]]
    for dim, indices in enumerate(lines):
        period = 2 * (fine.shape[2 + dim] - 1)
        indices = indices.remainder(period)
        fine = fine.index_select(2 + dim, torch.minimum(indices, period - indices))
    return window_sum(fine, weights, 7)


def operands(channels, rows, columns, dtype=torch.float32, weights_dtype=None, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(batch, channels, rows, columns, generator=generator).to(dtype)
    weights = torch.randn(batch, 49, 2 * rows, 2 * columns, generator=generator).to(weights_dtype or dtype)
    return source, weights


def assert_near(found, expected, tolerance):
    assert float((found.double() - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("channels", [1, 3, 8, 9, 30, 70, 130])
def test_equals_the_three_steps(instruction_set, channels):
    for rows, columns in itertools.product((1, 2, 3, 7), (1, 2, 9, 21)):
        for dtype, tolerance in ((torch.float32, 3e-6), (torch.float64, 1e-13), (torch.bfloat16, 8e-3)):
            source, weights = operands(channels, rows, columns, dtype)
            found = guided_double(source, weights)
            assert found.dtype == dtype
            assert_near(found, expected_double(source, weights), tolerance)


@pytest.mark.parametrize("weights_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [3, 40])
def test_weights_in_half_precision_are_read_exactly(channels, weights_dtype):
    source, weights = operands(channels, 5, 11, weights_dtype=weights_dtype)
    assert_near(guided_double(source, weights), expected_double(source, weights), 3e-6)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 5, 9, 33]),
    rows=st.integers(1, 14),
    columns=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_a_part_is_the_same_to_the_last_bit(channels, rows, columns, seed, data):
    source, weights = operands(channels, rows, columns, seed=seed, batch=1)
    whole = guided_double(source, weights)
    top, left = data.draw(st.integers(0, 2 * rows - 1)), data.draw(st.integers(0, 2 * columns - 1))
    bottom, right = data.draw(st.integers(top + 1, 2 * rows)), data.draw(st.integers(left + 1, 2 * columns))
    (row, row_end), (column, column_end) = coarse_span(top, bottom, rows), coarse_span(left, right, columns)
    out = torch.full((1, channels, bottom - top, right - left), torch.nan)
    found = guided_double(
        source[:, :, row:row_end, column:column_end],
        weights[:, :, top:bottom, left:right],
        place=Place((rows, columns), (row, column), (top, left)),
        out=out,
    )
    assert found is out
    assert torch.equal(found, whole[:, :, top:bottom, left:right])


@pytest.mark.parametrize("channels", [2, 20])
def test_layouts_and_strides_do_not_matter(channels):
    source, weights = operands(channels, 6, 10)
    expected = guided_double(source, weights)
    last = source.contiguous(memory_format=torch.channels_last)
    strided = source.repeat_interleave(2, dim=3)[..., ::2]
    spread_weights = weights.repeat_interleave(2, dim=3)[..., ::2]
    for variant in (last, strided):
        assert torch.equal(guided_double(variant, weights), expected)
    assert torch.equal(guided_double(source, spread_weights), expected)
    out = torch.empty_like(expected, memory_format=torch.contiguous_format)
    assert torch.equal(guided_double(source, weights, out=out), expected)


def test_what_is_beyond_the_borders_of_the_source_is_not_read(instruction_set):
    for channels in (3, 24):
        source, weights = operands(channels, 9, 15, batch=1)
        frame = torch.full((1, channels, 13, 19), torch.nan)
        frame[:, :, 2:-2, 2:-2] = source
        assert torch.equal(guided_double(frame[:, :, 2:-2, 2:-2], weights), guided_double(source, weights))


def test_gradients_are_those_of_the_three_steps():
    source, weights = operands(3, 4, 5, torch.float64, batch=1)
    source.requires_grad_()
    weights.requires_grad_()
    assert torch.autograd.gradcheck(guided_double, (source, weights))


def test_empty_maps_give_empty_results():
    assert guided_double(torch.zeros(1, 0, 3, 4), torch.zeros(1, 49, 6, 8)).shape == (1, 0, 6, 8)
    assert guided_double(torch.zeros(0, 12, 3, 4), torch.zeros(0, 49, 6, 8)).shape == (0, 12, 6, 8)


def test_the_operator_is_well_formed():
    source, weights = operands(2, 3, 4)
    torch.library.opcheck(guided_double_into, (source, weights, torch.zeros(2, 2, 6, 8), [3, 4, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": torch.zeros(1, 25, 6, 8)}, "weights has shape"),
        ({"weights": torch.zeros(1, 49, 6, 9)}, "place does not fit"),
        ({"weights": torch.zeros(1, 49, 6, 8, dtype=torch.float64)}, "weights has dtype"),
        ({"weights": torch.zeros(1, 49, 6, 8, dtype=torch.int32)}, "weights has dtype"),
        ({"source": torch.zeros(3, 4)}, "source has shape"),
        ({"place": Place((3, 4), (0, 0), (1, 0))}, "place does not fit"),
        ({"place": Place((30, 40), (20, 0), (0, 0))}, "the result needs"),
        ({"out": torch.zeros(1, 2, 6, 7)}, "out has shape"),
        ({"out": torch.zeros(1, 2, 6, 8, dtype=torch.float64)}, "out has shape"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, words):
    arguments = {"source": torch.zeros(1, 2, 3, 4), "weights": torch.zeros(1, 49, 6, 8), **change}
    source, weights = arguments.pop("source"), arguments.pop("weights")
    with pytest.raises((RuntimeError, IndexError), match=words):
        guided_double(source, weights, **arguments)


def test_the_library_checks_what_it_is_given_itself():
    source, weights = torch.zeros(1, 2, 3, 4), torch.zeros(1, 49, 6, 8)
    for result, place, words in (
        (torch.zeros(1, 2, 6, 7), [3, 4, 0, 0, 0, 0], "weights has shape"),
        (torch.zeros(1, 2, 6, 8), [3, 4, 0, 0, 2, 0], "output covers"),
        (torch.zeros(1, 2, 6, 8), [30, 40, 9, 0, 0, 0], "the output needs"),
        (torch.zeros(1, 2, 6, 16)[..., ::2], [3, 4, 0, 0, 0, 0], "next to each other"),
    ):
        with pytest.raises(RuntimeError, match=words):
            guided_double_into(source, weights, result, place)
