"""The attention to coarse cells on a CUDA device (see ``ops.attention``). Every run gives the same bits.

All floating point tensors of a call have one dtype and any strides; results are contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from featup_app.ops import cuda


def cell_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row_logits: Tensor,
    column_logits: Tensor,
    row_cells: Tensor,
    column_cells: Tensor,
) -> Tensor:
    """See ``ops.cell_attention``."""
    result = values.new_empty((*values.shape[:2], *queries.shape[2:]))
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    logits = row_logits[None, None], column_logits[None, None]
    cuda.call("cell_attention", queries, keys, values, *logits, rows.data_ptr(), columns.data_ptr(), result)
    return result


def cell_attention_weights(
    queries: Tensor, keys: Tensor, row_logits: Tensor, column_logits: Tensor, row_cells: Tensor, column_cells: Tensor
) -> Tensor:
    """See ``ops.cell_attention_weights``."""
    result = queries.new_empty(weights_shape(queries, row_logits))
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    logits = row_logits[None, None], column_logits[None, None]
    cuda.call("cell_attention_weights", queries, keys, *logits, rows.data_ptr(), columns.data_ptr(), result)
    return result


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
    """The gradients to the five floating point tensors, from that to the result; memory for two planes of each tap.

    Without ``wants_values``, an empty tensor stands for that to the values.
    """
    operands = (queries, keys, values, row_logits, column_logits)
    if gradient.numel() == 0:
        zeros = [operand.new_zeros(operand.shape) for operand in operands]
        return zeros[0], zeros[1], zeros[2] if wants_values else values.new_empty(0), zeros[3], zeros[4]
    exact = torch.float64 if queries.dtype == torch.float64 else torch.float32
    shape = weights_shape(queries, row_logits)
    weights, logits = (torch.empty(shape, dtype=exact, device=queries.device) for _ in range(2))
    to_queries, to_keys = (operand.new_empty(operand.shape) for operand in operands[:2])
    to_values = values.new_empty(values.shape if wants_values else 0)
    rows, columns = row_cells.contiguous(), column_cells.contiguous()
    cuda.call(
        "cell_attention_backward",
        queries,
        keys,
        values,
        row_logits[None, None],
        column_logits[None, None],
        rows.data_ptr(),
        columns.data_ptr(),
        gradient,
        weights,
        logits,
        to_queries,
        to_keys,
        to_values if wants_values else None,
    )
    window = row_logits.shape[1]
    taps = logits.view(-1, window, window, *queries.shape[2:])
    to_rows, to_columns = taps.sum(dim=(0, 2, 4)).mT, taps.sum(dim=(0, 1, 3)).mT
    return to_queries, to_keys, to_values, to_rows.to(row_logits).contiguous(), to_columns.to(row_logits).contiguous()


def weights_shape(queries: Tensor, row_logits: Tensor) -> tuple[int, int, int, int]:
    """(B, k * k, H, W)."""
    return queries.shape[0], row_logits.shape[1] ** 2, queries.shape[2], queries.shape[3]
