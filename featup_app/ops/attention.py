"""Attention of output pixels to coarse cells: a softmax over a window of cells that all pixels of one cell share.

The compiled operators compute the weights of the pixels of one cell at a time and never store those of the whole map. Source of
the operation: neighbourhood attention (Hassani et al., CVPR 2023) with queries that are finer than keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from featup_app.ops import cuda_attention, reference
from featup_app.ops.calls import call, handles, threads_for
from featup_app.ops.checks import check_alike, check_real
from featup_app.ops.layout import at_least_float32, empty_map, in_layout, with_adjacent_columns

_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def cell_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row_logits: Tensor,
    column_logits: Tensor,
    row_cells: Tensor,
    column_cells: Tensor,
) -> Tensor:
    """Average the values of the k x k cells around each pixel's own cell, with a softmax of products and distances.

    The weight of cell (row_cells[y] + i - k // 2, column_cells[x] + j - k // 2) for pixel (y, x) is the softmax of
    ``<queries[:, y, x], keys[:, cell]> + row_logits[y, i] + column_logits[x, j]`` over all taps (i, j) whose cell exists.
    Computed in float32, of float64 tensors in float64. A pixel's result depends to the last bit on its own query and window
    alone, not on the size of the output.

    Args:
        queries: (B, E, H, W), the embedding of each output pixel.
        keys: (B, E, h, w), the embedding of each coarse cell.
        values: (B, C, h, w).
        row_logits: (H, k), k odd; -inf for no weight, but the tap of the own cell is finite.
        column_logits: (W, k), likewise.
        row_cells: (H) int64, the coarse row that each output row lies in, 0 to h - 1, not decreasing.
        column_cells: (W) int64, the coarse column that each output column lies in, 0 to w - 1, not decreasing.

    Returns:
        (B, C, H, W) in the dtype of ``values``; on the processor, more than eight channels lie next to each other in memory
        (channels last). Differentiable once with respect to the five floating point tensors.

    Raises:
        RuntimeError: if shape, dtype, device or cells do not fit, or queries or keys are not finite, naming the argument.
    """
    _check(queries, keys, row_logits, column_logits, row_cells, column_cells)
    check_real("values", values)
    check_alike("values", values, "queries", queries)
    if values.dim() != 4 or (values.shape[0], *values.shape[2:]) != (keys.shape[0], *keys.shape[2:]):
        expected = f"({keys.shape[0]}, C, {keys.shape[2]}, {keys.shape[3]})"
        raise RuntimeError(f"values has shape {tuple(values.shape)}; expected {expected}")
    operands = _in_one_dtype(queries, keys, values, row_logits, column_logits)
    if handles(*operands):
        result: Tensor = cell_attention_compiled(*operands, row_cells, column_cells)
        return result.to(values.dtype)
    _check_contents(queries, keys, row_cells, column_cells)
    query, key, value, down, across = (at_least_float32(operand) for operand in operands)
    return reference.cell_attention(query, key, value, down, across, row_cells, column_cells).to(values.dtype)


def cell_attention_weights(
    queries: Tensor, keys: Tensor, row_logits: Tensor, column_logits: Tensor, row_cells: Tensor, column_cells: Tensor
) -> Tensor:
    """The weights of :func:`cell_attention`, which takes the same arguments; differentiable in plain torch.

    Returns:
        (B, k * k, H, W) in the dtype of ``queries``, taps row by row: zero where there is no cell, one in sum over the taps.

    Raises:
        RuntimeError: if shape, dtype, device or cells do not fit, or queries or keys are not finite, naming the argument.
    """
    _check(queries, keys, row_logits, column_logits, row_cells, column_cells)
    operands = _in_one_dtype(queries, keys, row_logits, column_logits)
    wants_gradient = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
    if not wants_gradient and handles(*operands):
        weights: Tensor = cell_attention_weights_compiled(*operands, row_cells, column_cells)
        return weights.to(queries.dtype)
    _check_contents(queries, keys, row_cells, column_cells)
    query, key, down, across = (at_least_float32(operand) for operand in operands)
    return reference.cell_attention_weights(query, key, down, across, row_cells, column_cells).to(queries.dtype)


def _check(
    queries: Tensor, keys: Tensor, row_logits: Tensor, column_logits: Tensor, row_cells: Tensor, column_cells: Tensor
) -> None:
    """Shapes, types and devices of what the weights are made of."""
    for name, tensor in (
        ("queries", queries),
        ("keys", keys),
        ("row_logits", row_logits),
        ("column_logits", column_logits),
    ):
        check_real(name, tensor)
        check_alike(name, tensor, "queries", queries)
    if queries.dim() != 4:
        raise RuntimeError(f"queries has shape {tuple(queries.shape)}; expected (B, E, H, W)")
    batch, embeddings, height, width = queries.shape
    if keys.dim() != 4 or tuple(keys.shape[:2]) != (batch, embeddings):
        raise RuntimeError(f"keys has shape {tuple(keys.shape)}; expected ({batch}, {embeddings}, h, w)")
    if row_logits.dim() != 2 or row_logits.shape[0] != height or row_logits.shape[1] % 2 == 0:
        raise RuntimeError(f"row_logits has shape {tuple(row_logits.shape)}; expected ({height}, k) with an odd k")
    expected = (width, row_logits.shape[1])
    if tuple(column_logits.shape) != expected:
        raise RuntimeError(f"column_logits has shape {tuple(column_logits.shape)}; expected {expected}")
    for name, cells, lines in (("row_cells", row_cells, height), ("column_cells", column_cells, width)):
        if cells.dtype != torch.int64:
            raise RuntimeError(f"{name} has dtype {cells.dtype}; expected torch.int64")
        if tuple(cells.shape) != (lines,):
            raise RuntimeError(f"{name} has shape {tuple(cells.shape)}; expected {(lines,)}")
        if cells.device != queries.device:
            raise RuntimeError(f"{name} is on {cells.device}; queries is on {queries.device}")


def _check_contents(queries: Tensor, keys: Tensor, row_cells: Tensor, column_cells: Tensor) -> None:
    """Whether the numbers are finite, and the cells in the grid and in order.

    The compiled library for the processor checks the cells itself.
    """
    _check_finite(queries, keys)
    for name, cells, length in (("row_cells", row_cells, keys.shape[2]), ("column_cells", column_cells, keys.shape[3])):
        if cells.numel() == 0:
            continue
        lowest, highest = (int(end) for end in torch.aminmax(cells))
        if lowest < 0 or highest >= length:
            raise RuntimeError(f"{name} has numbers from {lowest} to {highest}; expected 0 to {length - 1}")
        if bool((cells[1:] < cells[:-1]).any()):
            raise RuntimeError(f"{name} has decreasing numbers; expected numbers that do not decrease")


def _check_finite(queries: Tensor, keys: Tensor) -> None:
    for name, tensor in (("queries", queries), ("keys", keys)):
        # One pass without a copy: the ends are not a number where any number is not.
        if tensor.numel() and not all(math.isfinite(end) for end in torch.aminmax(tensor.detach())):
            raise RuntimeError(f"{name} has values that are not finite; expected finite numbers")


def _in_one_dtype(*operands: Tensor) -> list[Tensor]:
    """The operands in the dtype that holds all of them; on the processor at least in float32."""
    common = operands[0].dtype
    for operand in operands[1:]:
        common = torch.promote_types(common, operand.dtype)
    if operands[0].device.type == "cpu":
        return [at_least_float32(operand.to(common)) for operand in operands]
    return [operand.to(common) for operand in operands]


def _empty_result(values: Tensor, queries: Tensor) -> Tensor:
    height, width = queries.shape[2:]
    if values.device.type == "cuda":
        return values.new_empty((*values.shape[:2], height, width))
    return empty_map(values, height, width)


def _multiplications(queries: Tensor, row_logits: Tensor, channels: int) -> int:
    batch, embeddings, height, width = queries.shape
    return row_logits.shape[1] ** 2 * batch * height * width * (embeddings + channels)


@torch.library.custom_op("featup::cell_attention", mutates_args=(), device_types="cpu")
def cell_attention_compiled(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row_logits: Tensor,
    column_logits: Tensor,
    row_cells: Tensor,
    column_cells: Tensor,
) -> Tensor:
    """:func:`cell_attention` of tensors of one dtype."""
    _check_finite(queries, keys)
    result = _empty_result(values, queries)
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    call(
        "featup_cell_attention",
        with_adjacent_columns(queries),
        keys,
        in_layout(values),
        row_logits[None, None],
        column_logits[None, None],
        rows.data_ptr(),
        columns.data_ptr(),
        result,
        threads_for(_multiplications(queries, row_logits, values.shape[1])),
    )
    return result


@cell_attention_compiled.register_kernel("cuda")
def _cell_attention_cuda(*operands: Tensor) -> Tensor:
    _check_contents(operands[0], operands[1], operands[-2], operands[-1])
    return cuda_attention.cell_attention(*operands)


@cell_attention_compiled.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, *others: Tensor) -> Tensor:
    return _empty_result(values, queries)


@torch.library.custom_op("featup::cell_attention_weights", mutates_args=(), device_types="cpu")
def cell_attention_weights_compiled(
    queries: Tensor, keys: Tensor, row_logits: Tensor, column_logits: Tensor, row_cells: Tensor, column_cells: Tensor
) -> Tensor:
    """:func:`cell_attention_weights` of tensors of one dtype; not differentiable."""
    _check_finite(queries, keys)
    result = queries.new_empty(cuda_attention.weights_shape(queries, row_logits))
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    call(
        "featup_cell_attention_weights",
        with_adjacent_columns(queries),
        keys,
        row_logits[None, None],
        column_logits[None, None],
        rows.data_ptr(),
        columns.data_ptr(),
        result,
        threads_for(_multiplications(queries, row_logits, 1)),
    )
    return result


@cell_attention_weights_compiled.register_kernel("cuda")
def _cell_attention_weights_cuda(*operands: Tensor) -> Tensor:
    _check_contents(operands[0], operands[1], operands[-2], operands[-1])
    return cuda_attention.cell_attention_weights(*operands)


@cell_attention_weights_compiled.register_fake
def _(queries: Tensor, keys: Tensor, row_logits: Tensor, *others: Tensor) -> Tensor:
    return queries.new_empty(cuda_attention.weights_shape(queries, row_logits))


@torch.library.custom_op("featup::cell_attention_backward", mutates_args=(), device_types="cpu")
def cell_attention_backward(
    gradient: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row_logits: Tensor,
    column_logits: Tensor,
    row_cells: Tensor,
    column_cells: Tensor,
    *,
    wants_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of :func:`cell_attention` to its five floating point tensors, from that to its result (B, C, H, W).

    Without ``wants_values``, that to the values is not computed, and an empty tensor stands for it.
    """
    results = _empty_gradients(queries, keys, values, row_logits, column_logits, wants_values=wants_values)
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    call(
        "featup_cell_attention_backward",
        with_adjacent_columns(queries),
        keys,
        in_layout(values),
        row_logits[None, None],
        column_logits[None, None],
        rows.data_ptr(),
        columns.data_ptr(),
        in_layout(gradient),
        *results[:2],
        results[2] if wants_values else None,
        results[3][None, None],
        results[4][None, None],
        threads_for(_multiplications(queries, row_logits, values.shape[1])),
    )
    return results


@cell_attention_backward.register_kernel("cuda")
def _cell_attention_backward_cuda(*operands: Tensor, wants_values: bool) -> _Gradients:
    _check_contents(operands[1], operands[2], operands[-2], operands[-1])
    return cuda_attention.cell_attention_backward(*operands, wants_values=wants_values)


@cell_attention_backward.register_fake
def _(gradient: Tensor, *operands: Tensor, wants_values: bool) -> _Gradients:
    return _empty_gradients(*operands[:5], wants_values=wants_values)


def _empty_gradients(
    queries: Tensor, keys: Tensor, values: Tensor, row_logits: Tensor, column_logits: Tensor, *, wants_values: bool
) -> _Gradients:
    to_queries, to_keys, to_rows, to_columns = (
        operand.new_empty(operand.shape) for operand in (queries, keys, row_logits, column_logits)
    )
    to_values = _empty_result(values, keys) if wants_values else values.new_empty(0)
    return to_queries, to_keys, to_values, to_rows, to_columns


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    wants_values = ctx.needs_input_grad[2]
    to_queries, to_keys, to_values, *to_logits = cell_attention_backward(
        gradient, *ctx.saved_tensors, wants_values=wants_values
    )
    return to_queries, to_keys, to_values if wants_values else None, *to_logits, None, None


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("cell_attention can be differentiated only once; FEATUP_NATIVE=off allows more, in plain torch")


cell_attention_compiled.register_autograd(_backward, setup_context=_keep)
cell_attention_backward.register_autograd(_no_second_derivative)
