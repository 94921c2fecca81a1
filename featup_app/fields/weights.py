"""Which trained weights a field uses; all rooms ask :func:`choose`, so that the rule stands here alone."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from featup_app.base.errors import UpsamplerError
from featup_app.base.files import file_state
from featup_app.base.resources import resource
from featup_app.features import FeatureMap
from featup_app.fields.registry import CLASSICAL, Method, find_method
from featup_app.fields.upsampler import Upsampler
from featup_app.fields.upsampler_files import load_upsampler

Names = tuple[str | None, str | None, int]
"""Backbone, layer and number of channels of features; a name that is None is not known."""

FOR_ALL_BACKBONES = "universal"
"""Stands in the names of bundled files where others have that of a backbone."""


def choose(
    method: str,
    features: FeatureMap | Names,
    *,
    upsampler: Upsampler | str | Path | None = None,
    trained: bool = True,
    for_head: bool = False,
    any_method: bool = False,
) -> Upsampler | None:
    """The weights with which a method upsamples some features.

    1. The given weights. They have to be for the method and to fit the features.
    2. Without any: the bundled weights that were trained for the backbone and layer.
    3. Without those: the bundled universal weights of the method.
    4. Without those, and if the untrained form is requested: None.

    Args:
        method: name of the upsampling method.
        features: the features to upsample, or their names.
        upsampler: loaded weights, the path of their file, or "classical" for the untrained form of joint bilateral
            upsampling.
        trained: False for the untrained form of any method.
        for_head: whether the field has to hold the features that a classifier's head reads. Weights that normalise them, or
            that were trained for other features, then give their stages alone (joint bilateral upsampling) or None (other
            methods).
        any_method: whether the given weights may be for another method, and are passed over then; otherwise they are refused.

    Returns:
        The weights; None for the untrained form of a method, which is the classical one of joint bilateral upsampling, and
        for methods without weights.

    Raises:
        UpsamplerError: if the weights cannot be read, or are for another method, backbone, layer or number of channels.
    """
    entry = find_method(method)
    if not trained or not entry.takes_weights or (upsampler == CLASSICAL and entry.has_classical):
        return None
    if isinstance(features, FeatureMap):
        features = features.backbone_name, features.layer, features.channels
    found = _given(entry, upsampler, any_method) or default_upsampler(*features, method=method)
    if found is None:
        return None
    if for_head and (found.norm is not None or not _fits(found, features)):
        return found.stages_alone() if entry.has_classical else None
    found.check_fits(*features)
    return found


def options_for(method: str, weights: Upsampler | None) -> dict[str, Any]:
    """The options with which :func:`~featup_app.fields.upsample` uses what :func:`choose` returned."""
    entry = find_method(method)
    if weights is not None:
        return {"upsampler": weights}
    if entry.has_classical:
        return {"kernel": CLASSICAL}
    return {"trained": False} if entry.takes_weights else {}


def restoring(features: FeatureMap | Names) -> Upsampler | None:
    """The weights whose restoration methods without weights of their own apply to the coarse map.

    Returns:
        The bundled joint bilateral weights that were trained for the backbone and layer; None where there are none with a
        restoration of the backbone's own features.

    Raises:
        UpsamplerError: if a bundled file is damaged.
    """
    weights = choose("jbu", features)
    return weights if weights is not None and weights.norm is None and weights.restoration is not None else None


def _given(method: Method, upsampler: Upsampler | str | Path | None, any_method: bool) -> Upsampler | None:
    """The given weights, loaded; None without any, and for those of another method where these are passed over."""
    if upsampler is None or (upsampler == CLASSICAL and any_method):
        return None
    loaded = upsampler if isinstance(upsampler, Upsampler) else loaded_upsampler(upsampler)
    if any_method and loaded.method != method.name:
        return None
    loaded.check_method(method.name)
    return loaded


def default_upsampler(
    backbone_name: str | None, layer_name: str | None, channels: int, *, method: str = "jbu"
) -> Upsampler | None:
    """The bundled weights of a method for the features of a layer: those trained for it, else universal ones, else None.

    Raises:
        UpsamplerError: if a bundled file is damaged.
    """
    names = [] if backbone_name is None else [f"{backbone_name}-{layer_name}".replace(" ", "-"), backbone_name]
    for name in names:
        own = _bundled(method, name) if re.fullmatch(r"[\w.-]+", name) else None
        if own is not None and _fits(own, (backbone_name, layer_name, channels)):
            return own
    return _bundled(method, FOR_ALL_BACKBONES)


def loaded_upsampler(path: str | Path) -> Upsampler:
    """The weights in a file, read once, and again when the file has changed. Raises UpsamplerError."""
    return _read(*file_state(str(path)))


@functools.lru_cache(maxsize=16)
def _read(path: str, modified: int, size: int) -> Upsampler:
    return load_upsampler(path)


def _bundled(method: str, name: str) -> Upsampler | None:
    try:
        path = resource("weights", f"{method}-{name}.safetensors")
    except FileNotFoundError:
        return None
    return loaded_upsampler(path)


def _fits(upsampler: Upsampler, features: Names) -> bool:
    try:
        upsampler.check_fits(*features)
    except UpsamplerError:
        return False
    return True
