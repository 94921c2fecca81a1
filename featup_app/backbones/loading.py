"""From a name to a ready backbone: bundled weights, the hub's cache, a download, or a local checkpoint."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import infer_imagenet_subset

from featup_app.backbones.adapter import Backbone
from featup_app.backbones.catalogue import BackboneInfo, known_backbone, list_backbones, unknown_backbone
from featup_app.backbones.hub import FILES, HubError, fetch_weights
from featup_app.backbones.matching import (
    HEADS,
    Matched,
    State,
    check_values,
    classes_of,
    grid_of,
    matched,
    misfit,
    own_tensors,
)
from featup_app.backbones.weights import file_sha256, read_tensors, without_prefixes
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.base.resources import resource

_MISFIT: tuple[type[Exception], ...] = (
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    EOFError,
    SafetensorError,
    UnpicklingError,
)
logging.getLogger("timm").addHandler(logging.NullHandler())  # or its warnings would reach the terminal


def load_backbone(
    name: str,
    *,
    device: str | torch.device | None = None,
    path: str | Path | None = None,
    progress: Progress = silent,
) -> Backbone:
    """A backbone, ready to extract features.

    Args:
        name: a name from ``list_backbones()``, or any timm model name with or without the tag of its weights.
        device: where it computes, e.g. "cpu" or "cuda:0"; None for a CUDA device if there is one, else the CPU.
        path: a local checkpoint (.safetensors, or torch's format without arbitrary objects) to use instead of the
            weights that belong to the name.
        progress: called while weights are downloaded and loaded; may cancel.

    Raises:
        BackboneError: if there is no such backbone or device, or its weights are not here, cannot be downloaded, or do
            not fit.
    """
    target = find_device(device)
    info = known_backbone(name) or _timm_info(name)
    progress(f"loading {info.name}", 0, 0)
    notes: tuple[str, ...] = ()
    if path is not None:
        file = Path(path).expanduser()
        model, notes = _from_file(info, file)
        info = _own_info(info, file)
        source = str(file.name)
    elif info.bundled is not None:
        file = _bundled_file(info)
        model = build(info.architecture, classes=info.classes)
        model.load_state_dict(without_prefixes(read_tensors(file)), strict=True)
        source = f"bundled {info.bundled}"
    elif info.hub_id is not None:
        file = _from_hub(info, progress)
        model = _pretrained(info, {"file": str(file)}, classes=_named_classes(info.architecture))
        source = f"hub {info.hub_id}, {file.name}"
    else:
        raise BackboneError(
            f"timm has no weights for {info.name}; choose another one, or give a local checkpoint with path=."
        )
    progress(f"loading {info.name}", 1, 1)
    backbone = Backbone(model.to(target), info, weights=source, sha256=file_sha256(file), notes=notes)
    backbone.loaded_as = name, None if path is None else str(path)
    return backbone


def build(architecture: str, *, classes: int | None = None, **options: Any) -> torch.nn.Module:
    """timm's model for any input size, with random weights unless ``options`` say otherwise.

    Args:
        architecture: timm's name, with or without tag.
        classes: outputs of the head; None for those of timm's configuration if they are named classes, else none.
        options: for ``timm.create_model``.
    """
    count = _named_classes(architecture) if classes is None else classes
    arguments = {"pretrained": False, "num_classes": count, **options}
    try:
        # Transformers accept one size only without this argument; other models do not have it.
        return timm.create_model(architecture, dynamic_img_size=True, **arguments)  # type: ignore[no-any-return]
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        return timm.create_model(architecture, **arguments)  # type: ignore[no-any-return]


def find_device(device: str | torch.device | None) -> torch.device:
    """The device to compute on: CUDA if there is one and none is given. Its convolutions are float32 from then on.

    Raises:
        BackboneError: if torch cannot use that device here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).item()  # "meta" has tensors without values
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f'This computer has no device "{device}" that torch can use; choose "cpu".') from error
    if target.type == "cuda":
        # By default torch rounds the float32 inputs of convolutions to TF32, though not those of matrix products.
        torch.backends.cudnn.allow_tf32 = False
    return target


def _timm_info(name: str) -> BackboneInfo:
    """What timm knows about a model that is not in the catalogue."""
    wanted = name.strip().removeprefix("timm/")
    architecture, _, tag = wanted.partition(".")
    if not timm.is_model(architecture):
        raise unknown_backbone(name, [*(info.name for info in list_backbones()), *timm.list_models()])
    try:
        config = timm.get_pretrained_cfg(wanted)
    except (RuntimeError, ValueError, KeyError):
        config = None
    if config is None and tag:
        tagged = timm.list_models(f"{architecture}.*", pretrained=True)
        raise unknown_backbone(name, tagged)
    hub_id = config.hf_hub_id if config is not None else None
    if hub_id is not None and hub_id.endswith("/"):
        hub_id += architecture
    url = config is not None and bool(config.url)
    licence = getattr(config, "license", None) or "not stated"
    full = f"{architecture}.{config.tag}" if config is not None and config.tag else architecture
    return BackboneInfo(
        name=wanted,
        title=wanted,
        family="timm",
        architecture=full,
        stride=0,
        description="A model of the timm library.",
        licence=licence,
        classes=_named_classes(full),
        hub_id=hub_id or (f"timm/{full}" if url else None),
    )


def _named_classes(architecture: str) -> int:
    """Outputs of the head of timm's configuration if they are ImageNet classes, else 0 (such as CLIP's projection)."""
    config = timm.get_pretrained_cfg(architecture)
    count = int(config.num_classes or 0) if config is not None else 0
    return count if infer_imagenet_subset({"num_classes": count}) else 0


def _bundled_file(info: BackboneInfo) -> Path:
    try:
        return resource("weights", str(info.bundled))
    except FileNotFoundError as error:
        raise BackboneError(str(error)) from error


def _from_hub(info: BackboneInfo, progress: Progress) -> Path:
    config = timm.get_pretrained_cfg(info.architecture)
    named = config.hf_hub_filename if config is not None else None
    files = (named,) if named else FILES
    try:
        return fetch_weights(str(info.hub_id), info.name, files, progress)
    except HubError as error:
        raise BackboneError(
            f"The weights of {info.name} are not on this computer and cannot be downloaded: {error}. Go online once, "
            f"give a local checkpoint (path=), or choose {list_backbones()[0].name}, which is bundled."
        ) from error


def _own_info(info: BackboneInfo, path: Path) -> BackboneInfo:
    """What is known about a model with someone's own weights: its architecture, and nothing that holds for other weights.

    Bundled upsamplers, their restoration, the licence and the default layer belong to the weights that have the name.
    """
    if info.bundled is not None and file_sha256(path) == file_sha256(_bundled_file(info)):
        return info
    return replace(
        info,
        name=f"{info.name}@{path.name}",
        title=f"{path.stem} ({info.title.split(' (')[0]})",
        licence=f"not stated in {path.name}",
        bundled=None,
        hub_id=None,
        default_layer=None,
    )


def _from_file(info: BackboneInfo, path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """A model with the weights of a local checkpoint, and what had to be done to them.

    A file with the model's own names is read as it is; the names of other programs are translated by timm.
    """
    tensors = read_tensors(path)
    config = timm.get_pretrained_cfg(info.architecture)
    named = (config.classifier if config is not None else None) or ()
    heads = ((named,) if isinstance(named, str) else tuple(named)) or HEADS
    own = own_tensors(tensors, _shapes(info.architecture, 0))
    if own is None:
        return _translated(info, without_prefixes(tensors), path), ()
    classes = _classes_in(own, info, heads)
    wanted = _shapes(info.architecture, classes)
    check_values(own, wanted, path.name)
    found, notes = matched(own, wanted, heads), list[str]()
    options: dict[str, Any] = {}
    if found.left_out:
        notes.append(f"left out, as no part of {info.architecture}: {', '.join(found.left_out)}")
    if "pos_embed" in found.reshaped:
        options, note = _grid_options(info.architecture, own["pos_embed"], wanted["pos_embed"])
        notes += [note] if note else []
        if options:
            wanted = _shapes(info.architecture, classes, **options)
            found = matched(own, wanted, heads)
    if found.missing or found.unexpected:
        try:
            return _translated(info, without_prefixes(own), path), tuple(notes)
        except BackboneError:
            raise _misfit_error(path, info, found, own, wanted) from None
    if found.reshaped:
        notes += _resampled(found, own, wanted)
        try:
            return _pretrained(info, {"state_dict": dict(found.state)}, classes, **options), tuple(notes)
        except BackboneError as error:
            raise _misfit_error(path, info, found, own, wanted) from error
    model = build(info.architecture, classes=classes, **options)
    model.load_state_dict(found.state, strict=False)
    return model, tuple(notes)


def _classes_in(own: State, info: BackboneInfo, heads: tuple[str, ...]) -> int:
    """Classes of the head in a file; 0 for none, and for the projection that models such as CLIP have in its place."""
    classes = classes_of(own, heads)
    config = timm.get_pretrained_cfg(info.architecture)
    projection = config is not None and config.num_classes == classes and not _named_classes(info.architecture)
    return 0 if projection else classes


def _grid_options(architecture: str, given: torch.Tensor, wanted: torch.Tensor) -> tuple[dict[str, Any], str]:
    """Options for a model whose grid of positions is that of a file, if it is no square; and a sentence about it."""
    if given.dim() != 3 or wanted.dim() != 3 or given.shape[2] != wanted.shape[2]:
        return {}, ""
    prefix = wanted.shape[1] - math.isqrt(wanted.shape[1]) ** 2
    rows, columns = grid_of(given.shape[1] - prefix)
    if rows == columns or rows == 1:
        return {}, ""
    with torch.device("meta"):
        patch = build(architecture, classes=0).patch_embed.patch_size  # type: ignore[union-attr]
    size = rows * int(patch[0]), columns * int(patch[1])  # type: ignore[index]
    return {"img_size": size}, f"its {rows * columns} positions are read as {rows} rows of {columns}"


def _resampled(found: Matched, own: State, wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Sentences about the tensors that timm brings to another size."""
    notes = []
    for name in found.reshaped:
        ours, theirs = own[name].shape, wanted[name].shape
        if name.endswith("patch_embed.proj.weight") and len(ours) == 4:
            notes.append(f"its patches of {ours[2]}x{ours[3]} pixels were resampled to {theirs[2]}x{theirs[3]}")
        elif name.endswith("pos_embed") and len(ours) == 3:
            notes.append(f"its {ours[1]} positions were resampled to {theirs[1]}")
    return notes


def _shapes(architecture: str, classes: int, **options: Any) -> State:
    """The tensors of a model without memory behind them."""
    with torch.device("meta"):
        return build(architecture, classes=classes, **options).state_dict()


def _translated(info: BackboneInfo, state: State, path: Path) -> torch.nn.Module:
    """A model with tensors that have the names of another program, which timm knows for some families.

    Raises:
        BackboneError: if they do not fit.
    """
    classes = _classes_in(state, info, HEADS)
    if classes == 0 and classes_of(state, HEADS):
        state = {k: v for k, v in state.items() if not any(k.startswith(f"{head}.") for head in HEADS)}
    check_values(state, {}, path.name)
    try:
        return _pretrained(info, {"state_dict": dict(state)}, classes=classes)
    except BackboneError as error:
        wanted = _shapes(info.architecture, classes)
        raise _misfit_error(path, info, matched(state, wanted, HEADS), state, wanted) from error


def _misfit_error(
    path: Path, info: BackboneInfo, found: Matched, state: State, wanted: Mapping[str, torch.Tensor]
) -> BackboneError:
    words = misfit(found, state, wanted)
    return BackboneError(
        f"{path.name} does not fit {info.architecture}{': ' if words else ''}{words}. Give the file of the same architecture."
    )


def _pretrained(info: BackboneInfo, source: Mapping[str, Any], classes: int, **options: Any) -> torch.nn.Module:
    """timm's model with weights read, and where needed translated, by timm itself."""
    overlay = dict(source)
    if "state_dict" in source:
        overlay |= {"num_classes": classes, "label_offset": 0}
    try:
        return build(info.architecture, classes=classes, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except _MISFIT as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()[:200]
        raise BackboneError(
            f"The weights of {info.name} cannot be used ({reason}); delete {source.get('file', 'the file')} and "
            "download it again."
        ) from error
