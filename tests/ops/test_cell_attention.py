"""Attention to coarse cells: against the reference, a plain loop, the golden file, finite differences; and its properties."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.ops import cell_attention, cell_attention_weights, reference
from featup_app.ops.attention import (
    cell_attention_backward,
    cell_attention_compiled,
    cell_attention_weights_compiled,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "attention.npz"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
SHAPES = (
    # cells, output, embeddings, channels, window, batch
    ((5, 7), (37, 50), 4, 3, 5, 2),
    ((5, 7), (37, 50), 4, 40, 5, 2),
    ((1, 9), (8, 70), 3, 1, 7, 1),
    ((9, 1), (70, 8), 5, 130, 7, 1),
    ((2, 2), (40, 45), 7, 9, 9, 1),
    ((4, 6), (4, 6), 1, 20, 3, 2),
    ((6, 6), (3, 40), 32, 17, 1, 1),
    ((1, 1), (1, 1), 2, 8, 3, 1),
)


def cells_of(lines: int, length: int) -> torch.Tensor:
    return torch.arange(lines) * length // lines


def operands(shape, dtype=torch.float32, seed=0):
    (rows, columns), (height, width), embeddings, channels, window, batch = shape
    generator = torch.Generator().manual_seed(seed)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

    return (
        random(batch, embeddings, height, width),
        random(batch, embeddings, rows, columns),
        random(batch, channels, rows, columns),
        random(height, window),
        random(width, window),
        cells_of(height, rows),
        cells_of(width, columns),
    )


def without_values(arguments):
    return (*arguments[:2], *arguments[3:])


def exactly(arguments):
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in arguments)


def assert_near(found, expected, dtype, factor=1.0):
    scale = factor * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found.double(), expected.double(), atol=TOLERANCE[dtype] * scale, rtol=0)


def in_loops(queries, keys, values, row_logits, column_logits, row_cells, column_cells):
    """As the definition says, one pixel at a time."""
    window = row_logits.shape[1]
    result = values.new_zeros((*values.shape[:2], *queries.shape[2:]))
    for b in range(queries.shape[0]):
        for y in range(queries.shape[2]):
            for x in range(queries.shape[3]):
                logits, vectors = [], []
                for i in range(window):
                    for j in range(window):
                        row = int(row_cells[y]) + i - window // 2
                        column = int(column_cells[x]) + j - window // 2
                        if 0 <= row < keys.shape[2] and 0 <= column < keys.shape[3]:
                            product = queries[b, :, y, x] @ keys[b, :, row, column]
                            logits.append(product + row_logits[y, i] + column_logits[x, j])
                            vectors.append(values[b, :, row, column])
                result[b, :, y, x] = torch.stack(logits).softmax(0) @ torch.stack(vectors)
    return result


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("shape", [((3, 4), (7, 9), 4, 3, 5, 2), ((1, 5), (2, 13), 2, 10, 3, 1)])
def test_it_does_what_its_definition_says(shape, off, monkeypatch):
    if off:
        monkeypatch.setenv("FEATUP_NATIVE", "off")
    arguments = operands(shape, torch.float64)
    torch.testing.assert_close(cell_attention(*arguments), in_loops(*arguments), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(instruction_set, shape, dtype):
    arguments = operands(shape, dtype)
    found = cell_attention(*arguments)
    assert found.dtype == dtype
    assert_near(found, reference.cell_attention(*exactly(arguments)), dtype)
    weights = cell_attention_weights(*without_values(arguments))
    assert weights.dtype == dtype
    assert_near(weights, reference.cell_attention_weights(*exactly(without_values(arguments))), dtype)


@settings(max_examples=60, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 60)),
    embeddings=st.integers(0, 6),
    channels=st.sampled_from([0, 1, 3, 4, 5, 8, 9, 16, 31, 50]),
    window=st.sampled_from([1, 3, 5, 7]),
    batch=st.integers(0, 2),
    data=st.data(),
)
def test_random_shapes_and_cells_equal_the_reference(cells, size, embeddings, channels, window, batch, data):
    arguments = list(operands((cells, size, embeddings, channels, window, batch)))
    for index, lines, length in ((5, size[0], cells[0]), (6, size[1], cells[1])):
        picked = data.draw(st.lists(st.integers(0, length - 1), min_size=lines, max_size=lines))
        arguments[index] = torch.tensor(sorted(picked))
    found, expected = cell_attention(*arguments), reference.cell_attention(*exactly(arguments))
    assert found.shape == expected.shape
    if found.numel():
        assert_near(found, expected, torch.float32)


@pytest.mark.parametrize("channels", [3, 40])
def test_layouts_do_not_matter_and_many_channels_come_last(channels):
    arguments = operands(((5, 7), (37, 50), 4, channels, 5, 2))
    expected = cell_attention(*arguments)
    layout = torch.channels_last if channels > 8 else torch.contiguous_format
    assert expected.is_contiguous(memory_format=layout)
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in arguments[:3]]
    transposed = [tensor.mT.contiguous().mT for tensor in arguments[3:5]]
    assert torch.equal(cell_attention(*last, *transposed, *arguments[5:]), expected)
    spread = [cells.repeat_interleave(2)[::2] for cells in arguments[5:]]
    assert torch.equal(cell_attention(*arguments[:5], *spread), expected)


def test_types_may_be_mixed_but_for_float64():
    arguments = list(operands(SHAPES[1]))
    expected = cell_attention(*arguments)
    arguments[2] = arguments[2].half()
    found = cell_attention(*arguments)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=3e-3, rtol=3e-3)


def test_logits_of_minus_infinity_give_no_weight(instruction_set):
    for dtype in (torch.float32, torch.float64):
        arguments = operands(((5, 7), (37, 50), 4, 12, 5, 1), dtype)
        for logits in arguments[3:5]:
            logits[::3, 0] = -math.inf
            logits[::4, 3:] = -math.inf
        weights = cell_attention_weights(*without_values(arguments)).view(1, 5, 5, 37, 50)
        assert not weights[:, 0, :, ::3].any()
        assert not weights[:, :, 3:, :, ::4].any()
        assert_near(cell_attention(*arguments), reference.cell_attention(*exactly(arguments)), dtype)


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_sum_to_one_and_are_zero_outside(shape, off, monkeypatch):
    if off:
        monkeypatch.setenv("FEATUP_NATIVE", "off")
    arguments = operands(shape)
    weights = cell_attention_weights(*without_values(arguments))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(weights.shape[0], *weights.shape[2:]))
    window = shape[4]
    for cells, length, dim in ((arguments[5], shape[0][0], 3), (arguments[6], shape[0][1], 4)):
        reached = cells[:, None] + torch.arange(window) - window // 2
        outside = (reached < 0) | (reached >= length)
        lines = weights.view(-1, window, window, *weights.shape[2:]).movedim((dim, dim - 2), (0, 1))
        assert not lines[outside].any()


def test_constant_logits_give_the_mean_of_the_cells_that_exist():
    shape = ((4, 5), (16, 20), 4, 30, 3, 1)
    arguments = list(operands(shape))
    for index in (0, 3, 4):
        arguments[index] = torch.full_like(arguments[index], 0.5)
    arguments[1] = arguments[1][:, :, :1, :1].expand_as(arguments[1])
    count = F.avg_pool2d(F.pad(torch.ones(1, 1, 4, 5), (1, 1, 1, 1)), 3, 1) * 9
    means = F.avg_pool2d(F.pad(arguments[2], (1, 1, 1, 1)), 3, 1) * 9 / count
    expected = means.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(cell_attention(*arguments), expected, atol=1e-6, rtol=1e-5)
    weights = cell_attention_weights(*without_values(arguments))
    shares = (1 / count).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(weights, torch.where(weights > 0, shares, 0.0))


def test_large_logits_do_not_overflow(instruction_set):
    arguments = list(operands(SHAPES[1]))
    arguments[0] = 1e4 * arguments[0]
    weights = cell_attention_weights(*without_values(arguments))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 37, 50))
    assert bool(cell_attention(*arguments).isfinite().all())


def part(arguments, top, bottom, left, right):
    queries, keys, values, row_logits, column_logits, row_cells, column_cells = arguments
    return (
        queries[:, :, top:bottom, left:right],
        keys,
        values,
        row_logits[top:bottom],
        column_logits[left:right],
        row_cells[top:bottom],
        column_cells[left:right],
    )


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@settings(max_examples=25, deadline=None)
@given(
    cells=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    channels=st.sampled_from([1, 3, 9, 33]),
    window=st.sampled_from([3, 5, 7]),
    data=st.data(),
)
def test_a_part_is_the_same_to_the_last_bit(off, cells, channels, window, data):
    with pytest.MonkeyPatch.context() as patch:
        if off:
            patch.setenv("FEATUP_NATIVE", "off")
        arguments = operands((cells, (37, 53), 4, channels, window, 1))
        whole, weights = cell_attention(*arguments), cell_attention_weights(*without_values(arguments))
        top, left = data.draw(st.integers(0, 36)), data.draw(st.integers(0, 52))
        bottom, right = data.draw(st.integers(top + 1, 37)), data.draw(st.integers(left + 1, 53))
        inside = part(arguments, top, bottom, left, right)
        assert torch.equal(cell_attention(*inside), whole[:, :, top:bottom, left:right])
        assert torch.equal(cell_attention_weights(*without_values(inside)), weights[:, :, top:bottom, left:right])


def test_few_channels_equal_a_product_of_all(instruction_set):
    arguments = list(operands(((5, 7), (37, 50), 4, 40, 5, 1)))
    matrix = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    whole = torch.einsum("kc,bchw->bkhw", matrix, cell_attention(*arguments))
    arguments[2] = torch.einsum("kc,bchw->bkhw", matrix, arguments[2])
    torch.testing.assert_close(cell_attention(*arguments), whole, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 40])
def test_the_number_of_threads_does_not_change_the_result(channels):
    arguments = operands(((9, 11), (90, 121), 4, channels, 3, 2))
    gradient = torch.randn(2, channels, 90, 121, generator=torch.Generator().manual_seed(1))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    cell_attention(*arguments),
                    cell_attention_weights(*without_values(arguments)),
                    *cell_attention_backward(gradient, *arguments, wants_values=True),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_the_reference(instruction_set, shape, dtype):
    arguments = operands(shape, dtype)
    arguments[3][:, 0] = -math.inf if shape[4] > 1 else 0.0
    leaves = [tensor.requires_grad_() for tensor in arguments[:5]]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    expected = reference.cell_attention(*exact, *arguments[5:])
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad(cell_attention(*leaves, *arguments[5:]), leaves, seed.to(dtype))
    for one, two in zip(found, torch.autograd.grad(expected, exact, seed), strict=True):
        assert_near(one, two, dtype, factor=10.0)  # gradients of logits are sums of large terms that cancel


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("channels", [2, 9])
def test_gradients_equal_finite_differences(channels, off, monkeypatch):
    if off:
        monkeypatch.setenv("FEATUP_NATIVE", "off")
    arguments = operands(((2, 3), (3, 7), 2, channels, 3, 1), torch.float64)
    leaves = tuple(tensor.requires_grad_() for tensor in arguments[:5])
    assert torch.autograd.gradcheck(lambda *tensors: cell_attention(*tensors, *arguments[5:]), leaves)


def test_gradients_of_half_precision_are_computed_in_float32():
    arguments = operands(SHAPES[1], torch.bfloat16)
    leaves = [tensor.requires_grad_() for tensor in arguments[:5]]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    found = torch.autograd.grad(cell_attention(*leaves, *arguments[5:]).sum(), leaves)
    expected = torch.autograd.grad(reference.cell_attention(*exact, *arguments[5:]).sum(), exact)
    for leaf, one, two in zip(leaves, found, expected, strict=True):
        assert one.dtype == leaf.dtype
        assert_near(one, two, torch.bfloat16)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_to_values_is_computed_only_where_it_is_wanted(instruction_set, shape):
    arguments = operands(shape)
    gradient = torch.randn(cell_attention(*arguments).shape, generator=torch.Generator().manual_seed(1))
    every = cell_attention_backward(gradient, *arguments, wants_values=True)
    some = cell_attention_backward(gradient, *arguments, wants_values=False)
    assert some[2].numel() == 0
    for index in (0, 1, 3, 4):
        assert torch.equal(some[index], every[index])
    queries = arguments[0].requires_grad_()
    (found,) = torch.autograd.grad(cell_attention(*arguments), queries, gradient)
    assert torch.equal(found, every[0])


def test_a_second_derivative_is_refused():
    arguments = operands(SHAPES[0])
    queries = arguments[0].requires_grad_()
    (first,) = torch.autograd.grad(cell_attention(*arguments).sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated only once"):
        first.sum().backward()


def test_the_operators_are_well_formed():
    for channels in (2, 9):
        arguments = operands(((2, 3), (5, 7), 4, channels, 3, 2), torch.float64)
        torch.library.opcheck(cell_attention_weights_compiled, without_values(arguments))
        gradient = torch.randn(2, channels, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for wanted in (True, False):
            torch.library.opcheck(cell_attention_backward, (gradient, *arguments), {"wants_values": wanted})
        leaves = [tensor.requires_grad_() for tensor in arguments[:5]]
        torch.library.opcheck(cell_attention_compiled, (*leaves, *arguments[5:]))


@pytest.mark.parametrize("name", ["A", "B", "wide"])
def test_golden_file(instruction_set, name):
    if not GOLDEN.is_file():
        pytest.skip("needs attention.npz of the reference tensors in ../shared/golden, which is not there")
    colour, gauss, window = {"A": (0.08, 0.5, 5), "B": (0.1, 0.7, 5), "wide": (0.12, 1.5, 7)}[name]
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        lab, coarse, expected = (torch.from_numpy(arrays[key]) for key in ("lab", "coarse", name))
    fine, cells = (F.adaptive_avg_pool2d(lab, map_.shape[2:]) for map_ in (expected, coarse))
    queries = torch.cat([fine, torch.ones_like(fine[:, :1])], dim=1)
    keys = torch.cat([cells, -cells.square().sum(1, keepdim=True) / 2], dim=1) / colour**2
    logits = []
    for lines, length in zip(expected.shape[2:], coarse.shape[2:], strict=True):
        centres = (torch.arange(lines) + 0.5) * length / lines - 0.5
        taps = cells_of(lines, length)[:, None] + torch.arange(window) - window // 2
        logits.append(-((centres[:, None] - taps) ** 2) / (2 * gauss**2))
    lines = [cells_of(expected.shape[dim], coarse.shape[dim]) for dim in (2, 3)]
    found = cell_attention(queries, keys, coarse, *logits, *lines)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: torch.zeros(2, 4, 37)}, "queries has shape"),
        ({0: torch.zeros(2, 4, 37, 50, dtype=torch.int32)}, "queries has dtype"),
        ({0: torch.zeros(2, 4, 37, 50, dtype=torch.float64)}, "keys has dtype"),
        ({1: torch.zeros(2, 5, 5, 7)}, "keys has shape"),
        ({1: torch.zeros(2, 4, 5, 7, device="meta")}, "keys is on meta"),
        ({2: torch.zeros(2, 3, 5, 8)}, "values has shape"),
        ({2: torch.zeros(1, 3, 5, 7)}, "values has shape"),
        ({2: torch.zeros(2, 3, 5, 7, dtype=torch.bool)}, "values has dtype"),
        ({2: torch.zeros(2, 3, 5, 7, dtype=torch.float64)}, "values has dtype"),
        ({3: torch.zeros(37, 4)}, "row_logits has shape"),
        ({3: torch.zeros(36, 5)}, "row_logits has shape"),
        ({4: torch.zeros(50, 7)}, "column_logits has shape"),
        ({5: torch.zeros(37, dtype=torch.int32)}, "row_cells has dtype"),
        ({5: torch.zeros(36, dtype=torch.int64)}, "row_cells has shape"),
        ({5: torch.full((37,), 5)}, "row_cells has"),
        ({6: torch.full((50,), -1)}, "column_cells has"),
        ({6: torch.arange(50).flip(0) // 8}, "column_cells has"),
        ({6: torch.zeros(50, dtype=torch.int64, device="meta")}, "column_cells is on meta"),
    ],
)
def test_what_does_not_fit_is_named(change, words, off, monkeypatch):
    if off:
        monkeypatch.setenv("FEATUP_NATIVE", "off")
    arguments = list(operands(SHAPES[0]))
    for index, wrong in change.items():
        arguments[index] = wrong
    with pytest.raises(RuntimeError, match=f"^{words}"):
        cell_attention(*arguments)
    if 2 not in change:
        with pytest.raises(RuntimeError, match=f"^{words}"):
            cell_attention_weights(*without_values(arguments))


@pytest.mark.parametrize("off", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize(("index", "words"), [(0, "queries has"), (1, "keys has")])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_that_are_not_finite_are_refused(index, words, value, dtype, off, monkeypatch):
    if off:
        monkeypatch.setenv("FEATUP_NATIVE", "off")
    arguments = list(operands(SHAPES[0], dtype))
    arguments[index][1, 2, -1, -1] = value
    with pytest.raises(RuntimeError, match=f"^{words} values that are not finite"):
        cell_attention(*arguments)
    with pytest.raises(RuntimeError, match=f"^{words} values that are not finite"):
        cell_attention_weights(*without_values(arguments))
