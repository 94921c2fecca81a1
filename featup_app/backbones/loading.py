"""From a name to a ready backbone: bundled weights, the hub's cache, a download, or a local checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from featup_app.backbones.weights import State, file_sha256, read_state
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
_HEADS = ("head", "fc", "classifier", "head.fc")


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
    if path is not None:
        file = Path(path)
        model = _from_file(info, file)
        source = str(file.name)
    elif info.bundled is not None:
        file = _bundled_file(info)
        model = build(info.architecture, classes=info.classes)
        model.load_state_dict(read_state(file), strict=True)
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
    return Backbone(model.to(target), info, weights=source, sha256=file_sha256(file))


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
        torch.empty(0, device=target)
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


def _from_file(info: BackboneInfo, path: Path) -> torch.nn.Module:
    """A model with the weights of a local checkpoint, translated by timm where the model knows other formats."""
    state = read_state(path)
    classes = 0
    config = timm.get_pretrained_cfg(info.architecture)
    projects = config is not None and bool(config.num_classes) and not _named_classes(info.architecture)
    for head in _HEADS:
        weight = state.get(f"{head}.weight")
        if weight is None or weight.dim() != 2:
            continue
        if projects:
            state = {k: v for k, v in state.items() if not k.startswith(f"{head}.")}
        else:
            classes = int(weight.shape[0])
        break
    try:
        return _pretrained(info, {"state_dict": dict(state)}, classes=classes)
    except BackboneError as error:
        raise BackboneError(f"{path.name} does not fit {info.architecture}: {_misfit(info, state, classes)}") from error


def _pretrained(info: BackboneInfo, source: Mapping[str, Any], classes: int) -> torch.nn.Module:
    """timm's model with weights read, and where needed translated, by timm itself."""
    overlay = dict(source)
    if "state_dict" in source:
        overlay |= {"num_classes": classes, "label_offset": 0}
    try:
        return build(info.architecture, classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
    except _MISFIT as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()[:200]
        raise BackboneError(
            f"The weights of {info.name} cannot be used ({reason}); delete {source.get('file', 'the file')} and "
            "download it again."
        ) from error


def _misfit(info: BackboneInfo, state: State, classes: int) -> str:
    """In words, how the tensors of a file differ from those of a model."""
    wanted = {k: v for k, v in build(info.architecture, classes=classes).state_dict().items() if v.is_floating_point()}
    fitting = [k for k, v in state.items() if k in wanted and wanted[k].shape == v.shape]
    missing = [k for k in wanted if k not in state]
    other = [k for k, v in state.items() if k in wanted and wanted[k].shape != v.shape]
    unexpected = [k for k, v in state.items() if k not in wanted and v.is_floating_point()]
    parts = [f"{len(fitting)} of the model's {len(wanted)} tensors fit"]
    for title, names in (("missing", missing), ("of another shape", other), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{title}: {', '.join(names[:3])}{more}")
    return "; ".join(parts) + ". Give the file of the same architecture."
