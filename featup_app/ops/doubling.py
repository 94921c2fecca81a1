"""The guided doubling: bicubic doubling, reflecting padding and 7x7 window sum, one step of joint bilateral upsampling.

Where nothing has to be differentiated, the compiled library does all three in one pass, so that neither the doubled map nor
its padded copy is stored. Source of the operation: FeatUp (Fu, Hamilton et al., ICLR 2024), the joint bilateral upsampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_app.ops import c_interface, cuda
from featup_app.ops.calls import call, handles, threads_for
from featup_app.ops.checks import check_alike, check_real
from featup_app.ops.layout import at_least_float32, empty_map, has_layout, in_layout
from featup_app.ops.operators import window_sum
from featup_app.ops.resampling import bicubic_double, reflect_indices

KERNEL_SIZE = 7
RADIUS = KERNEL_SIZE // 2


class Place(NamedTuple):
    """The parts of the coarse and of the fine map that source and result cover; all pairs are (rows, columns).

    ``coarse_hw`` is the size of the whole coarse map, ``source_origin`` the cell at which the source begins in it, and
    ``origin`` the pixel at which the result begins in the fine map, which is twice as large.
    """

    coarse_hw: tuple[int, int]
    source_origin: tuple[int, int]
    origin: tuple[int, int]


def coarse_span(begin: int, end: int, coarse: int) -> tuple[int, int]:
    """The first and one past the last of ``coarse`` lines that fine lines ``begin .. end`` are computed from."""
    return max(begin // 2 - RADIUS, 0), min((end - 1) // 2 + RADIUS + 1, coarse)


def guided_double(source: Tensor, weights: Tensor, *, place: Place | None = None, out: Tensor | None = None) -> Tensor:
    """Double a map bicubically, pad it by reflection and sum it over a window around each pixel.

    Equal to ``window_sum(pad(interpolate(source, scale_factor=2, mode="bicubic"), 3, mode="reflect"), weights)`` up to
    rounding, for any part of the map. Differentiable with respect to both arguments (then in three steps).

    Args:
        source: (B, C, r, c); of a part, every coarse cell at most three cells away from those under the result, as far as the
            map has them.
        weights: (B, 49, H, W), as in ``window_sum``; float32 results may have weights in half precision.
        place: the parts that source and result cover; by default both are whole maps.
        out: (B, C, H, W), which the result is written into; only if nothing is differentiated.

    Returns:
        (B, C, H, W) in the dtype of ``source``. More than eight channels lie next to each other in memory (channels last).

    Raises:
        RuntimeError: if shape, dtype or device do not fit, naming the argument.
    """
    place = place or Place((source.shape[-2], source.shape[-1]), (0, 0), (0, 0))
    _check(source, weights, place)
    differentiated = torch.is_grad_enabled() and (source.requires_grad or weights.requires_grad)
    if differentiated and out is not None:
        raise RuntimeError("out cannot be given where source or weights need a gradient")
    if out is not None and (out.shape != _result_shape(source, weights) or out.dtype != source.dtype):
        expected = f"{_result_shape(source, weights)} and {source.dtype}"
        raise RuntimeError(f"out has shape {tuple(out.shape)} and dtype {out.dtype}; expected {expected}")
    if not differentiated and handles(source, weights):
        if source.device.type == "cpu":
            return _fused(source, weights, place, out)
        coarse, source_origin, origin = place
        result = cuda.guided_double(source, weights, coarse_size=coarse, source_origin=source_origin, origin=origin)
    else:
        result = _in_steps(source, weights, place)
    return result if out is None else out.copy_(result)


def _result_shape(source: Tensor, weights: Tensor) -> tuple[int, int, int, int]:
    return source.shape[0], source.shape[1], weights.shape[2], weights.shape[3]


def _check(source: Tensor, weights: Tensor, place: Place) -> None:
    for name, tensor in (("source", source), ("weights", weights)):
        check_real(name, tensor)
        if tensor.dim() != 4:
            raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}; expected four dimensions")
    if weights.shape[0] != source.shape[0] or weights.shape[1] != KERNEL_SIZE**2:
        raise RuntimeError(
            f"weights has shape {tuple(weights.shape)}; expected ({source.shape[0]}, {KERNEL_SIZE**2}, H, W)"
        )
    check_alike("weights", weights, "source", source)
    for dim, word in ((0, "rows"), (1, "columns")):
        coarse, source_begin, begin = place.coarse_hw[dim], place.source_origin[dim], place.origin[dim]
        source_end, end = source_begin + source.shape[2 + dim], begin + weights.shape[2 + dim]
        if coarse < 1 or begin < 0 or end > 2 * coarse or source_begin < 0 or source_end > coarse:
            raise RuntimeError(
                f"place does not fit: {word} {source_begin} to {source_end} of {coarse} and {begin} to {end} of {2 * coarse}"
            )
        first, last = coarse_span(begin, end, coarse)
        if end > begin and (source_begin > first or source_end < last):
            raise RuntimeError(
                f"source has the coarse {word} {source_begin} to {source_end}; the result needs {first} to {last}"
            )


def _in_steps(source: Tensor, weights: Tensor, place: Place) -> Tensor:
    height, width = weights.shape[2:]
    fine = 2 * place.coarse_hw[0], 2 * place.coarse_hw[1]
    if place.origin == (0, 0) and (height, width) == fine and min(fine) > RADIUS:
        doubled = F.interpolate(source, fine, mode="bicubic", align_corners=False)
        return window_sum(F.pad(doubled, (RADIUS,) * 4, mode="reflect"), weights)
    rows = reflect_indices(place.origin[0] - RADIUS, place.origin[0] + height + RADIUS, fine[0])
    columns = reflect_indices(place.origin[1] - RADIUS, place.origin[1] + width + RADIUS, fine[1])
    padded = bicubic_double(source, rows, columns, origin=place.source_origin, lengths=place.coarse_hw)
    return window_sum(padded, weights)


def _fused(source: Tensor, weights: Tensor, place: Place, out: Tensor | None) -> Tensor:
    full = in_layout(at_least_float32(source))
    direct = out is not None and out.dtype == full.dtype and has_layout(out)
    result = out if out is not None and direct else empty_map(full, *weights.shape[2:])
    weights = weights if weights.stride(3) == 1 or weights.shape[3] == 1 else weights.contiguous()
    guided_double_into(full, weights, result, [*place.coarse_hw, *place.source_origin, *place.origin])
    if direct:
        return result
    return result.to(source.dtype) if out is None else out.copy_(result)


@torch.library.custom_op("featup::guided_double_into", mutates_args=("result",), device_types="cpu")
def guided_double_into(source: Tensor, weights: Tensor, result: Tensor, place: Sequence[int]) -> None:
    """:func:`guided_double` of float32 or float64 in the layouts that the library takes; ``place`` as six numbers."""
    threads = threads_for(source.shape[1] * weights.numel())
    call("featup_guided_double", source, weights, result, c_interface.Place(*place), threads)


@guided_double_into.register_fake
def _(source: Tensor, weights: Tensor, result: Tensor, place: Sequence[int]) -> None:
    return None
