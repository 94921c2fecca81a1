"""Upsamplers as modules inside a network and trained with it: sixteen times upsampling, with gradients for input and weights."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_app.base.errors import EvaluationError
from featup_app.evaluation.methods import MethodChoice
from featup_app.fields import CLASSICAL
from featup_app.fields.guidance import IMAGENET_MEAN, IMAGENET_STD
from featup_app.fields.jbu_stack import JBUStack
from featup_app.fields.registry import STAGES
from featup_app.fields.window_kernels import LearnedKernel
from featup_app.ops.doubling import RADIUS
from featup_app.training import chain
from featup_app.training.classical_start import start_classical

FACTOR = chain.UPSAMPLING

_NETWORKS = {"resize_conv": "ResizeConvNetwork", "carafe": "CarafeNetwork", "sapa": "SapaNetwork"}
"""Methods with a module ``forward(source, guidance)`` in :mod:`featup_app.fields` that can start as bilinear interpolation."""

DROP_INS = ("lowres", "bilinear", "jbu", *_NETWORKS)
"""Methods that can be part of a network."""


class Resize(nn.Module):
    """Interpolation without parameters; ignores the guidance.

    Args:
        mode: ``nearest`` or ``bilinear``.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def forward(self, source: Tensor, guidance: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 16 h, 16 w)."""
        if self._mode == "nearest":
            return F.interpolate(source, scale_factor=FACTOR, mode="nearest")
        return F.interpolate(source, scale_factor=FACTOR, mode="bilinear", align_corners=False)


class GuidedUpsampling(nn.Module):
    """The stages of a :class:`~featup_app.fields.JBUStack`, in a form that is fast with gradients.

    The corrections of the stack are left out: the 1x1 convolutions around it, which are trained with it, can replace the last
    correction, and those of window weights lower the score (decision 0025).

    Args:
        stack: the stages to use and to train. None for the classical weights, which are not trained.
    """

    def __init__(self, stack: JBUStack | None) -> None:
        super().__init__()
        self.stages = None if stack is None else nn.ModuleList(stack.kernels)
        for kernel in self.stages or ():
            for parameter in kernel.fixup_proj.parameters():  # type: ignore[union-attr]
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> GuidedUpsampling:
        """As in ``nn.Module``, but the stages' dropout stays off: with keys that already separate colours, it would blur every
        window of a step."""
        super().train(mode)
        if self.stages is not None:
            self.stages.eval()
        return self

    def forward(self, source: Tensor, guidance: Tensor) -> Tensor:
        """Upsample features sixteen times.

        Args:
            source: (B, C, h, w), both sides at least 2.
            guidance: (B, 3, 16 h, 16 w) image, normalised with the ImageNet mean and deviation.

        Returns:
            (B, C, 16 h, 16 w).
        """
        if self.stages is None:
            mean, deviation = (guidance.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
            return chain.upsample(source, _levels(guidance * deviation + mean), chain.classical_weights())
        kernels = cast(Sequence[LearnedKernel], list(self.stages))
        return chain.upsample(source, _levels(guidance), chain.learned_weights(kernels, correction=False))


def drop_in(choice: MethodChoice, channels: int) -> nn.Module:
    """The module of a method: ``(source (B, C, h, w), guidance (B, 3, 16 h, 16 w)) -> (B, C, 16 h, 16 w)``.

    Args:
        choice: the method. ``jbu`` starts as the classical upsampler and is trained; ``jbu=classical`` is not trained;
            ``jbu=FILE`` starts from the stages in the file.
        channels: C.

    Raises:
        EvaluationError: if the method or its weights cannot be part of a network.
        UpsamplerError: if the file cannot be read, or holds weights of another method.
    """
    if choice.method not in DROP_INS:
        raise EvaluationError(
            f"The method {choice.method} runs the backbone again or is fitted to each picture, so it cannot stand inside a "
            f"network that is trained; choose among: {', '.join(DROP_INS)}."
        )
    if choice.method in ("lowres", "bilinear"):
        return Resize("nearest" if choice.method == "lowres" else "bilinear")
    if choice.method == "jbu":
        return _guided(choice, channels)
    if choice.upsampler is not None:
        raise EvaluationError(
            f'"{choice.label}" names weights, but {choice.method} learns its own here, for the channels of the head; leave '
            f"them out."
        )
    module = importlib.import_module(f"featup_app.fields.{choice.method}")
    network: nn.Module = getattr(module, _NETWORKS[choice.method])(channels)
    network.start_bilinear()  # type: ignore[operator]
    return network


def _guided(choice: MethodChoice, channels: int) -> GuidedUpsampling:
    if choice.upsampler == CLASSICAL:
        return GuidedUpsampling(None)
    stack = JBUStack(channels)
    start_classical(stack)
    if choice.upsampler is not None:
        from featup_app.fields import load_upsampler

        weights = load_upsampler(choice.upsampler)
        if not isinstance(weights.stack, JBUStack):
            raise EvaluationError(
                f'The file "{choice.upsampler}" holds no weights for joint bilateral upsampling; choose another.'
            )
        for kernel, known in zip(stack.kernels, weights.stack.kernels, strict=True):
            kernel.load_state_dict(known.state_dict())
    return GuidedUpsampling(stack)


def trained_parameters(module: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _levels(guidance: Tensor) -> list[Tensor]:
    """The guidance of each doubling, coarsest first, padded as the windows need."""
    levels = [guidance]
    for _ in range(STAGES - 1):
        levels.insert(0, F.avg_pool2d(levels[0], 2))
    return [F.pad(level, (RADIUS,) * 4, mode="reflect") for level in levels]


def operations(network: nn.Module, *inputs: object) -> int | None:
    """Multiplications and additions of one forward pass, each counted; softmaxes, activations and interpolation are not.

    Returns:
        The number; None without the compiled operators, because only their work can be counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from featup_app.ops import native_status

    if native_status().backend == "torch":
        return None
    library = torch.ops.featup
    counting = {
        library.window_sum: lambda padded, weights, *_, out_shape, **__: 2 * padded[1] * _size(weights),
        library.window_sum_grad_weights: lambda padded, centre, side, *_, out_shape, **__: (
            2 * centre[1] * _size(out_shape)
        ),
        library.range_weights: lambda keys, *_, out_shape, **__: 2 * keys[1] * _size(out_shape),
        library.bilateral_weights: lambda guidance, *_, out_shape, **__: 3 * guidance[1] * _size(out_shape),
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=counting) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
