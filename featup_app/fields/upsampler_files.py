"""Files with upsampler weights: this program's are read and written, published FeatUp checkpoints and plain state dicts read.

Published checkpoints and plain state dicts are joint bilateral stacks. This program's files say which method they are for; the
method's module names the class of its networks as ``NETWORK``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from featup_app.backbones.weights import State, file_sha256, read_content
from featup_app.base.errors import BackboneError, UpsamplerError
from featup_app.base.files import PROVENANCE, plain_facts, replace_or_raise
from featup_app.fields.registry import find_method
from featup_app.fields.restoration import Restoration
from featup_app.fields.upsampler import Norm, Upsampler

PREFIX = "upsampler."
SCHEMA = "featup-app/upsampler"
VERSION = 1

FIXUP_KEYS = ("fixup_proj.1.weight", "fixup_proj.1.bias")
NORM_KEYS = ("norm.weight", "norm.bias")
RESTORATION_KEYS = ("restoration.weight", "restoration.positional")
"""The two parts of a :class:`Restoration`, detail and positional; older files have only the first."""

_PUBLISHED_NORM = "model.1."
"""In the published checkpoints the norm follows the backbone: ``model = Sequential(backbone, ChannelNorm)``."""

JBU = "jbu"


def network_class(method: str) -> type[nn.Module]:
    """The class of a method's networks, which takes the number of channels.

    Raises:
        UpsamplerError: if there is no such method, or none with weights.
    """
    entry = find_method(method)
    if not entry.takes_weights:
        raise UpsamplerError(f"{entry.title} has no weights; choose a method that is trained, such as jbu.")
    return cast("type[nn.Module]", import_module(entry.module).NETWORK)


def load_upsampler(path: str | Path) -> Upsampler:
    """The trained upsampler in a file; nothing in the file is executed.

    It reads the checkpoints that FeatUp's authors publish (``state_dict`` with ``upsampler.*`` and perhaps the channel
    norm ``model.1.norm.*``), the .safetensors files of ``featup-app train`` for every method, and plain state dicts of the
    joint bilateral stack.

    Raises:
        UpsamplerError: if the file is missing, damaged, would run code, or does not hold the tensors of its method; the
            sentence names the tensor, its shape and the expected one.
    """
    path = Path(path).expanduser()
    try:
        content, metadata = read_content(path)
        sha256 = file_sha256(path)
    except BackboneError as error:
        raise UpsamplerError(str(error)) from error
    except OSError as error:
        raise UpsamplerError(f"Cannot read {path}: {(error.strerror or str(error)).lower()}.") from error
    return upsampler_of(_tensors(content, path), _provenance(content, metadata, path), path, sha256=sha256)


def upsampler_of(tensors: State, provenance: Mapping[str, Any], path: Path, *, sha256: str = "") -> Upsampler:
    """The upsampler that consists of some named tensors; the reverse of :func:`tensors_of`.

    Args:
        tensors: of a file.
        provenance: the facts about them in the file; ``method``, ``channels`` and ``title`` are read.
        path: of that file, for messages.
        sha256: of that file.

    Raises:
        UpsamplerError: if they are not the tensors of a method; see :func:`load_upsampler`.
    """
    method = _method(provenance, path)
    stack_state, norm_state = _parts(tensors)
    weight, positional = (stack_state.pop(key, None) for key in RESTORATION_KEYS)
    if method == JBU:
        _check_is_stack(stack_state, path)
        channels = _channels(stack_state, norm_state, weight, path)
        states_universal = provenance.get("channels", 0) is None
        if states_universal and not norm_state and not any(value.any() for value in _fixup(stack_state).values()):
            channels = None
        stack_state = _with_fixup(stack_state, channels)
    else:
        channels = _stated_channels(provenance, path)
    stack = _network(method, stack_state, channels, path)
    return Upsampler(
        stack=stack,
        method=method,
        channels=channels,
        norm=_norm(norm_state, channels, path),
        restoration=_restoration(weight, positional, channels or 0, path),
        title=str(provenance.get("title") or path.stem),
        provenance=MappingProxyType(dict(provenance)),
        path=path,
        sha256=sha256,
    )


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
        stack: the trained network, of the class that its method uses; its dtype is kept.
        norm: weight and bias (C) of the layer norm over channels that it was trained with.
        restoration: applied to the coarse map before upsampling; its dtype is kept.
        provenance: JSON-able facts. ``method`` is the upsampling method, jbu if not given. ``title``, ``backbone``,
            ``layer``, ``data`` (what it was trained on) and ``created`` are shown to people; a ``backbone`` and ``layer``
            that are one text each restrict the weights to them. ``channels`` is that of the stack if not given; None means
            that the stack is universal: its last correction is zero, and any backbone may use it. A last correction of zero
            is not written where the number of channels is known without it.

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
    replace_or_raise(path, save(tensors, metadata={PROVENANCE: text}), UpsamplerError)
    return path


def tensors_of(
    stack: nn.Module, channels: int | None, norm: Norm | None = None, restoration: Restoration | None = None
) -> State:
    """The named tensors of an upsampler, as in a file; :class:`Upsampler` describes the arguments.

    A last correction of zero is left out where the number of channels is known without it, or need not be known.
    """
    tensors = {f"{PREFIX}{key}": value for key, value in stack.state_dict().items()}
    if channels is None or restoration is not None:
        corrections = {f"{PREFIX}{key}": tensors.pop(f"{PREFIX}{key}") for key in FIXUP_KEYS}
        if any(bool(value.any()) for value in corrections.values()):
            tensors |= corrections
    if restoration is not None:
        parts = (restoration.detail, restoration.positional)
        tensors.update(zip((f"{PREFIX}{key}" for key in RESTORATION_KEYS), parts, strict=True))
    if norm is not None:
        tensors.update(zip(NORM_KEYS, norm, strict=True))
    return tensors


# -- parts of a file -----------------------------------------------------------------------------------------------------


def _tensors(content: Any, path: Path) -> State:
    """The named tensors of a checkpoint, inside its ``state_dict`` if it has one."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    entries = content.items() if isinstance(content, Mapping) else ()
    named = {str(key): value for key, value in entries if isinstance(value, torch.Tensor)}
    if not named:
        raise UpsamplerError(f"{path} holds no named tensors; give a file with the weights of a FeatUp JBU upsampler.")
    return named


def _method(provenance: Mapping[str, Any], path: Path) -> str:
    """The method that a file is for. Older files do not name one; they are for the joint bilateral stack."""
    method = provenance.get("method", JBU)
    try:
        network_class(str(method))
    except UpsamplerError as error:
        raise UpsamplerError(
            f'{path} holds weights for the method "{method}", which this version does not know; update the program.'
        ) from error
    return str(method)


def _stated_channels(provenance: Mapping[str, Any], path: Path) -> int:
    channels = provenance.get("channels")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise UpsamplerError(
            f"The description in {path} does not say for how many channels it is; copy or download the file again."
        )
    return channels


def _parts(named: State) -> tuple[State, State]:
    """The network's tensors under its own names, and those of the channel norm."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in named) else ""
    stack = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    norm = {key: value for key, value in stack.items() if key in NORM_KEYS}
    for key in NORM_KEYS:
        stack.pop(key, None)
        for source in (key, _PUBLISHED_NORM + key):
            if source in named:
                norm[key] = named[source]
    return stack, norm


def _check_is_stack(state: State, path: Path) -> None:
    if not any(key.startswith("up1.") for key in state):
        raise UpsamplerError(
            f"{path} holds no joint bilateral upsampler: it has {len(state)} tensors such as {next(iter(state))}, but none "
            f"named {PREFIX}up1.*; give the weights of a FeatUp JBU upsampler."
        )


def _fixup(state: State) -> State:
    return {key: state[key] for key in FIXUP_KEYS if key in state}


def _with_fixup(state: State, channels: int | None) -> State:
    """The stack's tensors with a last correction, which is zero in a universal stack and where the file holds none."""
    if channels is not None and FIXUP_KEYS[0] in state:
        return state
    side = channels or 1
    return {**state, FIXUP_KEYS[0]: torch.zeros(side, side, 1, 1), FIXUP_KEYS[1]: torch.zeros(side)}


def _restoration(
    weight: torch.Tensor | None, positional: torch.Tensor | None, channels: int, path: Path
) -> Restoration | None:
    if weight is None:
        if positional is None:
            return None
        raise UpsamplerError(f"{path} lacks the tensor {RESTORATION_KEYS[0]}; it is incomplete.")
    _check(RESTORATION_KEYS[0], weight, (channels, channels), path)
    if positional is None:
        positional = Restoration.nothing(channels).positional
    side = max(1, positional.shape[-1]) if positional.dim() else 1
    _check(RESTORATION_KEYS[1], positional, (channels, side, side), path)
    return Restoration(weight, positional)


def _channels(stack: State, norm: State, restoration: torch.Tensor | None, path: Path) -> int | None:
    """C, from the first tensor that has it as a side; None where no tensor has."""
    present = [key for key in FIXUP_KEYS if key in stack]
    if len(present) == 1:
        missing = next(key for key in FIXUP_KEYS if key not in stack)
        raise UpsamplerError(f"{path} lacks the tensor {PREFIX}{missing}; it is incomplete.")
    tensor = stack[FIXUP_KEYS[0]] if present else norm.get(NORM_KEYS[0], restoration)
    return None if tensor is None else int(tensor.shape[0]) if tensor.dim() else 1


def _network(method: str, state: State, channels: int | None, path: Path) -> nn.Module:
    """A method's network with these weights; every tensor must be there, have its shape and be finite."""
    with torch.device("meta"):  # names and shapes only: this needs no memory and draws no random numbers
        network = network_class(method)(channels or 1)
    title = find_method(method).title
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    if missing:
        raise UpsamplerError(f"{path} lacks the tensor {PREFIX}{missing[0]}{_more(missing)}; it is incomplete.")
    unexpected = [key for key in state if key not in expected]
    if unexpected:
        raise UpsamplerError(
            f"{path} holds the tensor {PREFIX}{unexpected[0]}{_more(unexpected)}, which a network of {title} does "
            f"not have; give the weights of a {title} upsampler."
        )
    for key, value in expected.items():
        _check(f"{PREFIX}{key}", state[key], tuple(value.shape), path)
    values = {key: value.detach().to(torch.float32, copy=True).contiguous() for key, value in state.items()}
    network.load_state_dict(values, assign=True)
    return network.eval()


def _norm(state: State, channels: int | None, path: Path) -> Norm | None:
    if not state:
        return None
    for key in NORM_KEYS:
        if key not in state:
            raise UpsamplerError(f"{path} lacks the tensor {key} of its channel norm; it is incomplete.")
        _check(key, state[key], (channels or 0,), path)
    weight, bias = (state[key].float() for key in NORM_KEYS)
    return weight, bias


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], path: Path) -> None:
    if tuple(tensor.shape) != shape:
        raise UpsamplerError(
            f"{path} does not fit: its tensor {name} has the shape {_shape(tuple(tensor.shape))} instead of {_shape(shape)}."
        )
    if not tensor.is_floating_point():
        raise UpsamplerError(f"{path} does not fit: its tensor {name} holds {tensor.dtype} instead of fractions.")
    if not bool(torch.isfinite(tensor).all()):
        raise UpsamplerError(
            f"The tensor {name} in {path} holds numbers that are not finite; its training has failed. Choose another file."
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a single number"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _provenance(content: Any, metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The facts about its training in a file: our JSON text, or the entries of Lightning beside the weights."""
    if PROVENANCE in metadata:
        try:
            stored = json.loads(metadata[PROVENANCE])
        except (ValueError, RecursionError) as error:
            raise UpsamplerError(
                f"The description in {path} is damaged ({error}); copy or download the file again."
            ) from error
        if not isinstance(stored, dict):
            raise UpsamplerError(
                f"The description in {path} is not an object of JSON; copy or download the file again."
            )
        return stored
    if not isinstance(content, Mapping):
        return {}
    facts: dict[str, Any] = {}
    parameters = content.get("hyper_parameters")
    if isinstance(parameters, Mapping):
        plain = {str(key): value for key, value in parameters.items() if isinstance(value, bool | int | float | str)}
        facts["hyper_parameters"] = plain
    if isinstance(content.get("global_step"), int):
        facts["steps"] = content["global_step"]
    return facts
