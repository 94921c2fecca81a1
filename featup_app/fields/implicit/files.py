"""Fitted networks as files: safetensors with the network, the components and what they were fitted to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featup_app.base.errors import UpsamplerError
from featup_app.base.files import PROVENANCE, plain_facts, reason_of, replace_or_raise
from featup_app.features import FeatureMap
from featup_app.fields.implicit.implicit_field import ImplicitField, LearnedUncertainty
from featup_app.fields.implicit.network import FourierNetwork, ImplicitNetwork, PerceptronNetwork
from featup_app.fields.implicit.recipe import FitRecipe, fit_recipe_from_facts
from featup_app.fields.implicit.start import Start
from featup_app.fields.implicit.views import AskedViews, Components
from featup_app.images import Image
from featup_app.multiview import Jitter

SCHEMA = "featup-app/implicit"
VERSION = 1

_NETWORK = "network."


def save_fit(field: ImplicitField, path: Path) -> None:
    """Write a fitted field, whole or not at all.

    Args:
        field: with its network, components, image and settings.
        path: of the file, usually ``*.safetensors``; an older one of that name is replaced.

    Raises:
        UpsamplerError: if it cannot be written.
    """
    tensors = {f"{_NETWORK}{name}": value for name, value in field.network.state_dict().items()}
    tensors |= {"basis": field.components.basis, "mean": field.components.mean, **field.start.tensors()}
    if field.uncertainty is not None:
        tensors["uncertainty"] = field.uncertainty.scale
    asked = field.asked
    if asked is not None:
        tensors["asked"] = asked.features
    geometry = field.geometry
    facts = {
        "schema": SCHEMA,
        "version": VERSION,
        "image": {"name": field.image.name, "sha256": field.image.sha256, "size_hw": field.image.size_hw},
        "backbone": field.coarse.backbone_name,
        "weights_sha256": field.coarse.provenance.get("weights_sha256"),
        "layer": field.coarse.layer,
        "channels": field.channels,
        "input_hw": geometry.input_hw,
        "grid_hw": geometry.grid_hw,
        "unit": field.components.scale,
        "fit": field.settings(),
        "asked": None if asked is None else [dataclasses.asdict(jitter) for jitter in asked.jitters],
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain, {PROVENANCE: json.dumps(plain_facts(facts), sort_keys=True)})
    replace_or_raise(path, content, UpsamplerError)


def read_fit_facts(path: Path) -> dict[str, Any]:
    """The record in a file of a fit: image, backbone, layer, input_hw, fit.

    Raises:
        UpsamplerError: if it is missing, damaged, or no such file.
    """
    return _read(path)[0]


def load_fit(path: Path, features: FeatureMap, image: Image | None = None) -> ImplicitField:
    """The field of a file of :func:`save_fit`; nothing in the file is executed.

    Args:
        path: of the file.
        features: of the same image, backbone and layer.
        image: the picture; the one that the features were made of, if not given.

    Raises:
        UpsamplerError: if the file is missing or damaged, or was fitted to another image, backbone, layer or grid.
    """
    facts, tensors = _read(path)
    image = image or features.image
    _check_fits(path, facts, features, image)
    try:
        settings = facts["fit"]
        recipe = fit_recipe_from_facts(settings["recipe"])
        network = _network(recipe, tensors, features)
        basis, mean, unit = tensors["basis"], tensors["mean"], float(facts["unit"])
        asked = _asked(facts.get("asked"), tensors, features)
        start = Start.from_file(recipe, features, image, tensors, settings.get("start"), path)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path) from error
    device = features.data.device
    if basis.shape != (features.channels, network.last.out_features) or mean.shape != (features.channels,):
        raise _damaged(path)
    uncertainty = tensors.get("uncertainty")
    return ImplicitField(
        features,
        image,
        network.to(device).eval().requires_grad_(False),
        Components(basis.to(device), mean.to(device), unit),
        settings,
        None if uncertainty is None else LearnedUncertainty(uncertainty.to(device)),
        start=start,
        asked=asked,
    )


def _asked(facts: list[dict[str, Any]] | None, tensors: dict[str, Tensor], features: FeatureMap) -> AskedViews | None:
    """The views in which a click is asked; None for fits of earlier versions. Raises ValueError if they do not fit together."""
    if facts is None:
        return None
    jitters = tuple(Jitter(**{**entry, "size_hw": tuple(entry["size_hw"])}) for entry in facts)
    if tensors["asked"].shape != (len(jitters), *features.data.shape):
        raise ValueError("the views of a click do not fit the features")
    return AskedViews(jitters, tensors["asked"].to(features.data.device))


def _network(recipe: FitRecipe, tensors: dict[str, Tensor], features: FeatureMap) -> ImplicitNetwork:
    state = {name[len(_NETWORK) :]: value for name, value in tensors.items() if name.startswith(_NETWORK)}
    outputs = state["last.weight"].shape[0]
    generator = torch.Generator().manual_seed(0)
    network: ImplicitNetwork
    if recipe.network == "fourier":
        network = FourierNetwork(recipe, outputs, features.geometry.grid_hw, generator)
    else:
        network = PerceptronNetwork(recipe, outputs, (1, 1), torch.zeros(1, 3), generator)
    network.load_state_dict(state)
    return network


def _check_fits(path: Path, facts: dict[str, Any], features: FeatureMap, image: Image) -> None:
    there = facts.get("image")
    if not isinstance(there, dict) or there.get("sha256") != image.sha256:
        name = there.get("name") if isinstance(there, dict) else None
        source = f'the image "{name}"' if name else "another image"
        if name == image.name:
            source = "another picture of this name, or another page, channels or range of it"
        raise UpsamplerError(
            f'The fit "{path.name}" was made for {source}, and not '
            f'for "{image.name}"; a fit serves one image. Open that image, or fit this one.'
        )
    provenance, geometry = features.provenance, features.geometry
    for title, key, wanted in (
        ("backbone", "backbone", features.backbone_name),
        ("weights of the backbone", "weights_sha256", provenance.get("weights_sha256")),
        ("layer", "layer", features.layer),
        ("input size", "input_hw", list(geometry.input_hw)),
        ("feature grid", "grid_hw", list(geometry.grid_hw)),
    ):
        if wanted is not None and facts.get(key) != wanted:
            raise UpsamplerError(
                f'The fit "{path.name}" was made with another {title} ({facts.get(key)} instead of {wanted}); choose that '
                "one, or fit again."
            )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UpsamplerError(f'There is no file "{path}"; check the name and the folder.')
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(PROVENANCE, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except OSError as error:
        raise UpsamplerError(f'Cannot read "{path}": {reason_of(error)}.') from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise UpsamplerError(
            f'"{path}" holds no implicit fit; give a file that "featup-app fit" or the window\'s "Save fit" wrote.'
        )
    if facts.get("version") != VERSION:
        raise UpsamplerError(f'"{path}" was written by another version of this program; fit again.')
    return facts, tensors


def _damaged(path: Path) -> UpsamplerError:
    return UpsamplerError(f'"{path}" is damaged or incomplete; fit again, or take another copy of the file.')
