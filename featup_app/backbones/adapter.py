"""One way to run every backbone: the whole image, resized, through timm, to a feature map that knows where it lies."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config

from featup_app.backbones import heads
from featup_app.backbones.catalogue import BackboneInfo
from featup_app.backbones.gradients import ClassRoute
from featup_app.backbones.layers import ATTENTION_INPUT, HEAD, Layer, find_layer
from featup_app.backbones.probing import Source, find_source, intermediates, layout_of, probe
from featup_app.base.errors import BackboneError
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Geometry, Size
from featup_app.sizes import resolve_input_size

if TYPE_CHECKING:
    from featup_app.images import Image

OFFSET = (0.0, 0.0)
"""Offset of the receptive fields' centres from the cells' centres, in cells. The padding of strided convolutional networks
shifts them by up to half a cell: at stride 32 by +15.5 px in EfficientNet with TensorFlow's padding, by -15.5 px in
symmetrically padded networks. With random weights that shift is measured. Training removes it: in the bundled
EfficientNet-Lite0 at most 3.4 px remain, a tenth of a cell (measured with mirrored photos and with gradients), so zero is
used. Other networks may differ: a trained MobileNetV2 has -3.5 px horizontally and about -12 px vertically (gradients only).
"""


class Backbone:
    """A pretrained model that turns images into feature maps.

    Attributes:
        name, title: as in the catalogue.
        model: timm's model, in evaluation mode, without gradients for its parameters.
        device: where it computes.
        layers: the layers whose features can be extracted, in the order of computation.
        default_layer: name of the layer that is used if none is given.
        stride: in pixels; both sides of the resized input are multiples of it.
        default_size: shorter side of the resized input when no size is given.
        fixed_hw: the one input size that it accepts, (height, width); None if it accepts others.
        has_head: whether it is a classifier with named classes.
        class_names: their names; empty without a head.
        class_size: shorter side of the inputs with which the model was trained.
        loaded_as: the name and the path that ``load_backbone`` was given, to load it in another process.
        notes: what had to be done to the weights of a file.
        provenance: JSON-able facts about the weights and the preprocessing.
        probe: what its first run showed.
    """

    def __init__(
        self, model: Any, info: BackboneInfo, *, weights: str = "random", sha256: str = "", notes: Sequence[str] = ()
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.name, self.title, self.notes = info.name, info.title, tuple(notes)
        self.loaded_as: tuple[str, str | None] = info.name, None
        self.device = next(model.parameters()).device
        if not hasattr(model, "forward_intermediates"):
            raise BackboneError(f"timm's model {info.name} does not return feature maps; choose another backbone.")
        self._accepts = frozenset(inspect.signature(self.model.forward_intermediates).parameters)
        taps = self._taps()
        self.probe = probe(
            self.model,
            self._accepts,
            layers=len(taps),
            stride=max(int(tap["reduction"]) for tap in taps),
            norm=self.is_transformer,
            name=self.name,
        )
        self.fixed_hw = self.probe.fixed_hw
        self._sources: dict[str, Source | None] = {}
        self.layers = self._find_layers()
        numbered = [layer for layer in self.layers if layer.numbered]
        self.default_layer = info.default_layer or numbered[-1].name
        self.stride = max(layer.stride for layer in self.layers)
        self.default_size = 224 if self.stride == 8 else max(1, round(448 / self.stride)) * self.stride
        trained = int(self.model.pretrained_cfg.get("input_size", (3, 224, 224))[1])
        self.class_size = max(1, round(trained / self.stride)) * self.stride
        if self.fixed_hw is not None:
            self.default_size = self.class_size = min(self.fixed_hw)
        self.class_names = heads.class_names(self.model)
        self.has_head = bool(self.class_names)
        config = resolve_model_data_config(self.model)
        self._interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        self._mean = torch.tensor(config["mean"], device=self.device).view(3, 1, 1)
        self._std = torch.tensor(config["std"], device=self.device).view(3, 1, 1)
        self.provenance: dict[str, Any] = {
            "backbone": info.name,
            "architecture": info.architecture,
            "weights": weights,
            "weights_sha256": sha256,
            "licence": info.licence,
            "mean": [float(v) for v in config["mean"]],
            "std": [float(v) for v in config["std"]],
            "interpolation": self._interpolation,
            "timm": timm.__version__,
            **({"weights_notes": list(notes)} if notes else {}),
        }

    def __repr__(self) -> str:
        return f"<Backbone {self.name} on {self.device}, {len(self.layers)} layers, stride {self.stride}>"

    @property
    def is_transformer(self) -> bool:
        """Whether all its blocks work on one grid of patches."""
        return hasattr(self.model, "blocks") and len({int(f["reduction"]) for f in self._taps()}) == 1

    def _taps(self) -> list[dict[str, Any]]:
        info = self.model.feature_info
        taps = list(getattr(info, "info", info))
        if not taps:
            raise BackboneError("timm does not list which feature maps this model has; choose another backbone.")
        return taps

    def _find_layers(self) -> tuple[Layer, ...]:
        layers = []
        for i, tap in enumerate(self._taps()):
            stride = int(tap["reduction"])
            name = f"block {i}" if self.is_transformer else f"stage {i}"
            title = name if self.is_transformer else f"{name} (stride {stride})"
            layers.append(Layer(name, title, self.probe.channels[i], stride, i))
        last, count = layers[-1], len(layers)
        if self.is_transformer:
            if int(self.model.num_classes) and self._attention_source() is not None:
                layers.append(Layer(ATTENTION_INPUT, "input of the last attention", last.channels, last.stride, count))
        elif self.probe.head_layout is not None and not self.probe.head_is_last:
            width = self.probe.head_channels
            if width != last.channels or int(self.model.num_classes):
                layers.append(Layer(HEAD, f"head (stride {last.stride})", width, last.stride, count))
        return tuple(layers)

    def _attention_source(self) -> Source | None:
        """Where the input of the last attention arises; None if the model has no such place, or it holds no patches."""
        norm = getattr(self.model.blocks[-1], "norm1", None)
        if not isinstance(norm, torch.nn.Module):
            return None
        with torch.no_grad():
            layout = layout_of(heads.attention_input(self.model, self.probe.inputs), self.probe.grids[-1])
        return Source(norm, 0, 0, layout, False) if layout is not None and layout.kind == "NLC" else None

    def source(self, layer: Layer) -> Source | None:
        """Where in the model the map of a layer arises, found by a run on random numbers; None if it cannot be found."""
        if layer.name not in self._sources:
            if layer.name == ATTENTION_INPUT:
                self._sources[layer.name] = self._attention_source()
            else:
                with torch.no_grad():
                    shown = self._forward(self.probe.inputs, layer)
                self._sources[layer.name] = find_source(self.model, self.probe.inputs, shown)
        return self._sources[layer.name]

    @functools.cached_property
    def class_route(self) -> ClassRoute:
        """At which layer class maps are made, and whether by the rows of the head.

        Raises:
            BackboneError: if the backbone has no head, or its scores cannot be traced to positions.
        """
        return heads.class_route(self)

    @functools.cached_property
    def picture_layer(self) -> str:
        """The layer at which the embedding of a picture is explained; see :func:`heads.picture_layer`."""
        return heads.picture_layer(self)

    def class_method(self, layer: str | int | None = None) -> Literal["CAM", "Grad-CAM"]:
        """The method by which class maps at a layer are made: :meth:`class_weights` of it. Raises as :attr:`class_route`."""
        route = self.class_route
        wanted = route.layer if layer is None else self.layer(layer).name
        return "CAM" if route.linear and wanted == route.layer else "Grad-CAM"

    def layer(self, wanted: str | int | None = None) -> Layer:
        """The layer that a name or number means; None for the default.

        Raises:
            BackboneError: if there is none; the message names the valid range.
        """
        return find_layer(self.layers, self.default_layer if wanted is None else wanted, self.name)

    def input_size(self, image_hw: Size, size: str | int | Size | None = None, *, default: int | None = None) -> Size:
        """The (height, width) that an image of ``image_hw`` is resized to for an input size as a person writes it.

        Args:
            default: shorter side when the size is None; ``default_size`` if not given.

        Raises:
            BackboneError: if the model accepts one size only, and this is another.
            SizeError: if the size is not understood or too large.
        """
        if self.fixed_hw is not None and (size in (None, self.fixed_hw) or str(size) == str(min(self.fixed_hw))):
            return self.fixed_hw
        wanted = resolve_input_size(size, image_hw=image_hw, stride=self.stride, default=default or self.default_size)
        if self.fixed_hw is None:
            return wanted
        own = resolve_input_size(self.fixed_hw, image_hw=image_hw, stride=self.stride, default=1)
        if wanted != own:
            raise self._wrong_size(wanted, "it accepts one size only")
        return self.fixed_hw

    def grid_size(self, layer: Layer, input_hw: Size) -> Size:
        """(h, w) of a layer's map for an input of this size."""
        if input_hw == self.probe.size_hw:
            return self.probe.grids[min(layer.index, len(self.probe.grids) - 1)]
        return input_hw[0] // layer.stride, input_hw[1] // layer.stride

    def _wrong_size(self, size_hw: Size, reason: str) -> BackboneError:
        height, width = self.model.pretrained_cfg.get("input_size", (3, 0, 0))[1:]
        return BackboneError(
            f"The backbone {self.name} cannot work at {size_hw[0]}x{size_hw[1]} pixels ({reason}); use {height}x{width}, for "
            "which it was made."
        )

    def resized(
        self, image: Image, size: str | int | Size | None = None, *, default: int | None = None
    ) -> torch.Tensor:
        """The whole image as (3, H, W) float32 in 0..1 at the input size, on the device of the backbone."""
        size_hw = self.input_size(image.size_hw, size, default=default)
        if size_hw == image.size_hw:
            pixels = torch.from_numpy(image.pixels.copy()).to(self.device, torch.float32)
            return pixels.permute(2, 0, 1).contiguous() / 255
        result = torch.empty(3, *size_hw, device=self.device)
        for channel in range(3):  # one at a time: a hundred megapixels in float32 are 1.2 GB
            plane = torch.from_numpy(image.pixels[:, :, channel].astype("float32"))[None, None].to(self.device)
            result[channel] = F.interpolate(
                plane, size=size_hw, mode=self._interpolation, align_corners=False, antialias=True
            )[0, 0]
        return result.div_(255).clamp_(0, 1)

    def features(
        self, batch: torch.Tensor, layer: str | int | None = None, progress: Progress = silent
    ) -> torch.Tensor:
        """Feature maps of pictures that already have a usable size.

        Args:
            batch: (B, 3, H, W) RGB in 0..1, sides multiples of ``stride``.
            layer: name or number of the layer; None for the default.
            progress: called between blocks; may cancel.

        Returns:
            (B, C, h, w) float32 on the device of the backbone.

        Raises:
            BackboneError: if there is no such layer, or the model cannot work at this size.
        """
        found = self.layer(layer)
        inputs = self.normalised(batch)
        with torch.no_grad(), self.reporting(progress, found), self.explained(inputs):
            return self._forward(inputs, found).float().contiguous()

    def features_of_layers(self, batch: torch.Tensor, layers: Sequence[str]) -> list[torch.Tensor]:
        """Feature maps of several blocks or stages in one pass.

        Args:
            batch: as in :meth:`features`.
            layers: names of numbered layers, in the order of computation.

        Returns:
            (B, C, h, w) float32 for each layer, equal to :meth:`features` of it.

        Raises:
            BackboneError: if there is no such layer, or the model cannot work at this size.
            ValueError: if a layer is not a numbered one, or they are not in order.
        """
        found = [self.layer(name) for name in layers]
        indices = [layer.index for layer in found]
        if not all(layer.numbered for layer in found) or indices != sorted(set(indices)):
            raise ValueError(f"layers are {list(layers)}; expected different blocks or stages in their order")
        inputs = self.normalised(batch)
        with torch.no_grad(), self.explained(inputs):
            return [values.float().contiguous() for values in self._intermediates(inputs, indices)]

    def extract(
        self,
        image: Image,
        *,
        size: str | int | Size | None = None,
        layer: str | int | None = None,
        progress: Progress = silent,
    ) -> FeatureMap:
        """The feature map of a whole image.

        Args:
            image: the picture.
            size: of the resized input: "HxW", one number for the shorter side, "image", (height, width); None for the
                default. Sides are rounded to multiples of ``stride``; nothing is cropped.
            layer: name or number of the layer; None for the default.
            progress: called between blocks; may cancel.

        Raises:
            BackboneError: if there is no such layer, or the model cannot work at this size.
            SizeError: if the size is not understood or too large.
        """
        found = self.layer(layer)
        pixels = self.resized(image, size)
        data = self.features(pixels[None], found.name, progress)[0]
        input_hw = int(pixels.shape[1]), int(pixels.shape[2])
        grid_hw = int(data.shape[1]), int(data.shape[2])
        return FeatureMap(
            data=data,
            geometry=Geometry(image.size_hw, input_hw, grid_hw, OFFSET),
            layer=found.name,
            image=image,
            backbone=self,
            provenance=MappingProxyType(
                {
                    **self.provenance,
                    "layer": found.name,
                    "final_norm": self.is_transformer and found.numbered,
                    "input_hw": list(input_hw),
                }
            ),
        )

    def logits(
        self, image: Image, *, size: str | int | Size | None = None, progress: Progress = silent
    ) -> torch.Tensor:
        """(classes,) scores of the whole image before softmax.

        Args:
            image: the picture.
            size: as in :meth:`extract`, except that None is the size at which the head was trained (``class_size``): on
                larger inputs it is right about as often, but its probabilities fall towards zero.
            progress: called between blocks; may cancel.

        Raises:
            BackboneError: if the backbone has no head.
        """
        return heads.logits(self, image, size=size, progress=progress)

    def class_weights(
        self,
        image: Image,
        classes: Sequence[int],
        *,
        size: str | int | Size | None = None,
        layer: str | int | None = None,
        odds: bool = False,
        progress: Progress = silent,
    ) -> tuple[str, torch.Tensor]:
        """The linear functionals that turn features into class activation maps: (layer name, (K, C) weights).

        With ``odds`` they are evidence for each class against the others, log(p / (1 - p)), instead of for its score alone.
        They apply to ``extract(image, size=size, layer=<the returned name>)``. See :mod:`featup_app.backbones.heads`.

        Raises:
            BackboneError: if the backbone has no head, a class is unknown, or the layer does not determine the classes.
        """
        return heads.class_weights(self, image, classes, size=size, layer=layer, odds=odds, progress=progress)

    def evidence_gradients(
        self, image: Image, classes: Sequence[int] | None, *, size: str | int | Size | None, progress: Progress = silent
    ) -> tuple[str, list[torch.Tensor]]:
        """Gradients of class scores, or of the length of the picture's embedding for None: (layer name, K times (C, h, w)).

        They lie on the cells of ``extract(image, size=size, layer=<the returned name>)``. Raises as :meth:`class_weights`.
        """
        return heads.evidence_gradients(self, image, classes, size=size, progress=progress)

    def normalised(self, batch: torch.Tensor) -> torch.Tensor:
        """Pictures in 0..1 as the model was trained to see them."""
        return (batch.to(self.device, torch.float32) - self._mean) / self._std

    def _forward(self, inputs: torch.Tensor, layer: Layer) -> torch.Tensor:
        grid_hw = self.grid_size(layer, (int(inputs.shape[2]), int(inputs.shape[3])))
        if layer.name == HEAD:
            assert self.probe.head_layout is not None
            return self.probe.head_layout.grid(self.model.forward_features(inputs), grid_hw)
        if layer.name == ATTENTION_INPUT:
            source = self.source(layer)
            assert source is not None
            return source.layout.grid(heads.attention_input(self.model, inputs), grid_hw)
        (data,) = self._intermediates(inputs, [layer.index])
        return data

    def _intermediates(self, inputs: torch.Tensor, indices: Sequence[int]) -> list[torch.Tensor]:
        return intermediates(self.model, self._accepts, inputs, indices, norm=self.is_transformer)

    @contextlib.contextmanager
    def explained(self, inputs: torch.Tensor) -> Iterator[None]:
        """Turns the model's refusal of an input size into a sentence."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            if "memory" in str(error):  # of the processor, which torch reports as any other error
                raise
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else "no reason given"
            raise self._wrong_size((int(inputs.shape[2]), int(inputs.shape[3])), reason) from error

    @contextlib.contextmanager
    def reporting(self, progress: Progress, layer: Layer | None = None) -> Iterator[None]:
        """Within this, ``progress("features", i, n)`` is called before each block and each part of a block."""
        steps = _steps(self.model)
        if layer is not None and self.is_transformer and layer.numbered:
            steps = steps[: layer.index + 1]
        total = len(steps)
        handles = []
        try:
            for i, step in enumerate(steps):
                for module in (step, *step.children()):
                    handles.append(module.register_forward_pre_hook(_reporter(progress, i, total)))
            yield
            progress("features", total, total)
        finally:
            for handle in handles:
                handle.remove()


def _reporter(progress: Progress, done: int, total: int) -> Any:
    def report(module: torch.nn.Module, inputs: Any) -> None:
        progress("features", done, total)

    return report


def _steps(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks of a model, in order."""
    steps: list[torch.nn.Module] = []

    def walk(module: torch.nn.Module) -> None:
        inner = getattr(module, "blocks", None)
        if isinstance(module, torch.nn.Sequential | torch.nn.ModuleList):
            for child in module:
                walk(child)
        elif isinstance(inner, torch.nn.Sequential | torch.nn.ModuleList):
            walk(inner)
        else:
            steps.append(module)

    for name, child in model.named_children():
        if name in ("blocks", "stages", "layers", "features") or name.startswith(("layer", "stage")):
            walk(child)
    return steps
