"""Writing trained upsamplers to files, whole or not at all; reading them is the business of the fields that use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from featup_app.base.errors import UpsamplerError
from featup_app.base.files import plain_facts
from featup_app.fields.registry import find_method
from featup_app.fields.restoration import Restoration
from featup_app.fields.upsampler import Norm, Upsampler
from featup_app.fields.upsampler_files import (
    FIXUP_KEYS,
    JBU,
    PREFIX,
    PROVENANCE,
    load_upsampler,
    network_class,
    tensors_of,
)
from featup_app.fields.weights import default_upsampler
from featup_app.training.resume_files import replace_or_tell

__all__ = ["Upsampler", "default_upsampler", "load_upsampler", "save_upsampler"]

SCHEMA = "featup-app/upsampler"
VERSION = 1


def save_upsampler(
    path: str | Path,
    stack: nn.Module,
    *,
    norm: Norm | None = None,
    restoration: Restoration | None = None,
    provenance: Mapping[str, Any],
) -> Path:
    """Write the weights of an upsampler as safetensors; an older file of that name is replaced in one step.

    The same weights and provenance give the same bytes, and reading them gives the weights back to the last bit.

    Args:
        path: ends in .safetensors; its folder is made if there is none.
        stack: the trained network, of the class that its method uses; its floating-point type is kept.
        norm: weight and bias (C) of the layer norm over channels that it was trained with.
        restoration: what is done to the coarse map before upsampling; the type of its numbers is kept.
        provenance: JSON-able facts. ``method`` is the upsampling method, jbu if not given. ``title``, ``backbone``,
            ``layer``, ``data`` (what it was trained on) and ``created`` are shown to people; a ``backbone`` and ``layer``
            that are one text each bind the weights to them. ``channels``:
            None says that the stack is universal; then its last correction is zero, and any backbone may use it. Without
            that entry it is the number of channels of the stack. A last correction of zero is not written where the number
            of channels is known without it.

    Returns:
        The file.

    Raises:
        UpsamplerError: if the weights are not finite or not of the method, a universal stack has a correction, a norm or a
            restoration, or the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".safetensors":
        raise UpsamplerError(f"Upsamplers are written as safetensors; give {path.name} the ending .safetensors.")
    facts = {"schema": SCHEMA, "version": VERSION, "channels": stack.feat_dim, "method": JBU, **provenance}
    if not isinstance(stack, network_class(facts["method"])):
        raise UpsamplerError(
            f"{path.name} was not written: the weights are not those of {find_method(facts['method']).title}."
        )
    tensors = tensors_of(stack, facts["channels"], norm, restoration)
    corrects = any(f"{PREFIX}{key}" in tensors for key in FIXUP_KEYS)
    if facts["channels"] is None and (norm is not None or restoration is not None or corrects):
        raise UpsamplerError(
            "A universal upsampler serves any number of channels, so it can have neither a last correction nor a "
            "restoration nor a channel norm; train it without them, or say for how many channels it is."
        )
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    for key, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise UpsamplerError(f"{path.name} was not written: its tensor {key} holds numbers that are not finite.")
    text = json.dumps(plain_facts(facts), sort_keys=True, allow_nan=False)
    replace_or_tell(path, save(tensors, metadata={PROVENANCE: text}))
    return path
