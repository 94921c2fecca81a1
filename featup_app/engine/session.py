"""One sitting at the program: loaded backbones, feature maps and fields, remembered while they are likely to be asked again.

Window and command line get every number and picture from here, so that both give the same. Not thread-safe: one thread, the
engine lane's, owns a session with its models and its device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from featup_app.backbones import Backbone, load_backbone
from featup_app.base.errors import UpsamplerError
from featup_app.base.progress import Progress, silent
from featup_app.engine import memory
from featup_app.engine.fitting import Fits
from featup_app.engine.views import (
    CLASSICAL,
    BackboneFacts,
    CAMView,
    ClassChoice,
    FieldFacts,
    PCAOptions,
    PCAView,
    SimilarityView,
    UpsamplerFacts,
    ViewSettings,
    upsampler_facts,
)
from featup_app.features import FeatureMap, Point, Size
from featup_app.fields import METHODS, FeatureField, Upsampler, default_upsampler, find_method, load_upsampler, upsample
from featup_app.fields.upsampler_files import file_state
from featup_app.images import Image
from featup_app.lenses import PCABasis, cam, find_class, fit_pca, similarity, top_classes
from featup_app.sizes import resolve_output_size

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER = "tf_efficientnet_lite0"
"""The bundled backbone with a head, which explains classes when the chosen one has none."""

_Value = TypeVar("_Value")


class _Recent(Generic[_Value]):
    """The last few results by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[Hashable, _Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        if key not in self._items:
            self._items[key] = make()
        self._items.move_to_end(key)
        while len(self._items) > self._limit:
            self._items.popitem(last=False)
        return self._items[key]


class Session:
    """Computes views of images.

    Args:
        device: torch device; CUDA if there is one, else the CPU.
        memory_budget: bytes that one view or tile may use; a share of the free memory if not given.
    """

    def __init__(self, *, device: str | None = None, memory_budget: int | None = None) -> None:
        self.device = device
        self._memory_budget = memory_budget
        self._backbones: _Recent[Backbone] = _Recent(2)
        self._upsamplers: _Recent[Upsampler] = _Recent(4)
        self._maps: _Recent[FeatureMap] = _Recent(6)
        self._fields: _Recent[FeatureField] = _Recent(4)
        self._dear_fields: _Recent[FeatureField] = _Recent(6)  # whose making takes seconds: not lost to quick ones
        self._bases: _Recent[PCABasis] = _Recent(8)
        self._logits: _Recent[Tensor] = _Recent(4)
        self.fits = Fits()

    @property
    def memory_budget(self) -> float:
        """Bytes that one view may use now."""
        return self._memory_budget or memory.available_bytes() * memory.SHARE

    # -- from image to field ---------------------------------------------------------------------------------------

    def backbone(self, settings: ViewSettings, progress: Progress = silent) -> Backbone:
        """The loaded backbone of these settings. Raises BackboneError."""

        def load() -> Backbone:
            progress("loading backbone", 0, 0)
            path = settings.weights_file
            return load_backbone(settings.backbone, device=self.device, path=path, progress=progress)

        return self._backbones.get((settings.backbone, settings.weights_file), load)

    def backbone_facts(self, settings: ViewSettings, progress: Progress = silent) -> BackboneFacts:
        """What menus show of a backbone; loads it. Raises BackboneError."""
        backbone = self.backbone(settings, progress)
        return BackboneFacts(
            name=settings.backbone,
            title=backbone.title,
            layers=tuple((layer.name, layer.title) for layer in backbone.layers),
            default_layer=backbone.default_layer,
            default_size=backbone.default_size,
            stride=backbone.stride,
            has_head=backbone.has_head,
            device=str(backbone.device),
        )

    def features(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> FeatureMap:
        """The low-resolution map. Raises BackboneError, SizeError."""
        backbone = self.backbone(settings, progress)

        def extract() -> FeatureMap:
            progress("extracting features", 0, 0)
            return backbone.extract(image, size=settings.input_size, layer=settings.layer, progress=progress)

        return self._maps.get(_map_key(image, settings), extract)

    def field(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> FeatureField:
        """The features at any size. Raises BackboneError, SizeError, UpsamplerError."""
        features = self.features(image, settings, progress)
        return self._field(image, settings, features, self._upsampler(settings, features), progress)

    def _field(
        self,
        image: Image,
        settings: ViewSettings,
        features: FeatureMap,
        upsampler: Upsampler | None,
        progress: Progress,
    ) -> FeatureField:
        if settings.method == "implicit" and settings.fit is not None:
            return self.fits.field(settings.fit, features, latest=settings.fit_latest)
        key = (_map_key(image, settings), settings.method, _weights_key(upsampler))
        entry = find_method(settings.method)
        options: dict[str, Any] = {}
        if upsampler is not None:
            options = {"upsampler": upsampler}
        elif entry.takes_weights:
            options = {"kernel": CLASSICAL} if "kernel" in entry.options else {"trained": False}
        remembered = self._fields if entry.quick else self._dear_fields
        return remembered.get(key, lambda: upsample(features, image, settings.method, progress=progress, **options))

    def _upsampler(self, settings: ViewSettings, features: FeatureMap) -> Upsampler | None:
        """The trained weights that the method uses: those of the chosen file if they are for it, else the bundled ones.

        None for the untrained form (classical for joint bilateral upsampling), and for methods without weights.
        """
        entry = find_method(settings.method)
        if not entry.takes_weights or (settings.upsampler == CLASSICAL and "kernel" in entry.options):
            return None
        if settings.upsampler_file is not None:
            chosen = self._loaded_upsampler(settings.upsampler_file)
            if chosen.method == settings.method:
                return chosen
        names = features.provenance.get("backbone"), features.layer, features.channels
        return default_upsampler(*names, method=settings.method)

    def _loaded_upsampler(self, path: str) -> Upsampler:
        """The weights in a file, read again when the file has changed."""
        return self._upsamplers.get(file_state(path), lambda: load_upsampler(path))

    def check_upsampler(
        self, settings: ViewSettings, progress: Progress = silent, *, any_method: bool = False
    ) -> UpsamplerFacts:
        """What the chosen file with upsampler weights holds; whether it fits the chosen backbone, which is loaded for that.

        Args:
            settings: name the file, the backbone and the method.
            progress: may cancel.
            any_method: whether the file may be for another method than the chosen one; the facts say for which.

        Raises:
            UpsamplerError: if the file cannot be used, or was trained for another method or other features.
            BackboneError: if the backbone or layer cannot be had.
        """
        assert settings.upsampler_file is not None
        progress("reading the upsampler", 0, 0)
        upsampler = self._loaded_upsampler(settings.upsampler_file)
        if not any_method:
            upsampler.check_method(settings.method)
        backbone = self.backbone(settings, progress)
        layer = backbone.layer(settings.layer)
        upsampler.check_fits(backbone.name, layer.name, layer.channels)
        return upsampler_facts(settings, upsampler.facts())

    def output_size(
        self, image: Image, settings: ViewSettings, progress: Progress = silent, *, streamed: bool = False
    ) -> Size:
        """(H, W) of the upsampled maps.

        Args:
            streamed: the maps go to a file tile by tile, so that none of them has to fit into memory as a whole.

        Raises:
            SizeError: if the size is not understood, or does not fit into memory.
        """
        field = self.field(image, settings, progress)
        size = self._wanted_size(image, settings, progress)
        self._check_memory(field, size, 0 if streamed else field.bytes_per_pixel(3) + _VIEW_BYTES_PER_PIXEL)
        return size

    def _wanted_size(self, image: Image, settings: ViewSettings, progress: Progress) -> Size:
        """(H, W) of the upsampled maps, whether they fit into memory or not. Raises SizeError."""
        grid_hw = self.features(image, settings, progress).geometry.grid_hw
        return resolve_output_size(settings.output_size, image_hw=image.size_hw, grid_hw=grid_hw)

    def _check_memory(self, field: FeatureField, size: Size, per_pixel: float) -> None:
        memory.check_output_fits(
            size, lambda wanted: field.fixed_bytes(wanted) + wanted[0] * wanted[1] * per_pixel, self.memory_budget
        )

    def facts(
        self, image: Image, settings: ViewSettings, field: FeatureField, size: Size, progress: Progress = silent
    ) -> FieldFacts:
        """What a person wants to know about the features of a view."""
        features = self.features(image, settings, progress)
        weights = field.settings().get("upsampler")
        return FieldFacts(
            backbone=settings.backbone,
            backbone_title=self.backbone(settings, progress).title,
            layer=features.layer,
            channels=features.channels,
            geometry=features.geometry,
            method=settings.method,
            size=size,
            upsampler=upsampler_facts(settings, weights if isinstance(weights, dict) else None)
            if find_method(settings.method).takes_weights
            else None,
        )

    # -- lenses ----------------------------------------------------------------------------------------------------

    def pca_view(
        self, image: Image, settings: ViewSettings, options: PCAOptions | None = None, progress: Progress = silent
    ) -> PCAView:
        """PCA colours. Raises LensError for a component that does not exist, and what :meth:`output_size` raises."""
        options = options or PCAOptions()
        size = self.output_size(image, settings, progress)
        field = self.field(image, settings, progress)
        basis = self.pca_basis(image, settings, options, progress)
        numbers = tuple(options.numbers)
        if field.channels < 3:  # a map of one or two channels repeats its last one
            numbers = tuple(min(number, field.channels) for number in numbers)
        values = basis.values(field, numbers, size=size, progress=progress)
        facts = self.facts(image, settings, field, size, progress)
        return PCAView(facts, numbers, _array(values), basis.picture(values, numbers), basis.explained)

    def pca_basis(
        self, image: Image, settings: ViewSettings, options: PCAOptions, progress: Progress = silent
    ) -> PCABasis:
        """The principal components that a PCA view of these settings shows.

        An upsampler that normalises its features gives fields of other numbers than the backbone's own; components are
        then fitted on features that are normalised in the same way, and on no others.
        """
        viewed = self.field(image, settings, progress)
        own = self.features(image, settings, progress)
        source = _source(viewed, own)

        def fit() -> PCABasis:
            if options.fit == "grid":
                return fit_pca(source, progress=progress)
            if options.fit == "field":
                return fit_pca(viewed, progress=progress)
            quick = [method.name for method in METHODS if method.quick]  # the others would take minutes, unasked
            fields = [
                viewed if name == settings.method else self.field(image, settings.with_(method=name), progress)
                for name in quick
            ]
            alike = [field for field in fields if _source(field, own) is source]
            return fit_pca(alike, progress=progress)

        weights: Hashable = None
        if options.fit == "joint":
            weights = tuple(
                _weights_key(self._upsampler(settings.with_(method=method.name), own)) for method in METHODS
            )
        if options.fit == "field" or source is not own:
            weights = settings.method, _weights_key(self._upsampler(settings, own)), weights
        if options.fit == "field" and settings.method == "implicit" and settings.fit is not None:
            weights = self.fits.version(settings.fit, latest=settings.fit_latest)
        return self._bases.get((_map_key(image, settings), options.fit, weights), fit)

    def similarity_view(
        self, image: Image, settings: ViewSettings, point: Point, progress: Progress = silent
    ) -> SimilarityView:
        """Cosine to the feature under an image point. Raises what :meth:`output_size` raises."""
        size = self.output_size(image, settings, progress)
        field = self.field(image, settings, progress)
        values = similarity(field, point, size=size, progress=progress)
        return SimilarityView(self.facts(image, settings, field, size, progress), point, _array(values))

    def class_settings(self, settings: ViewSettings, progress: Progress = silent) -> ViewSettings:
        """The settings under which classes are explained: the same if the backbone has a head, else the classifier's.

        Chosen upsampler weights stay chosen if they serve the classifier too; else its bundled ones are taken.
        """
        if self.backbone(settings, progress).has_head:
            return settings
        chosen = settings.upsampler
        if settings.upsampler_file and not self._loaded_upsampler(settings.upsampler_file).universal:
            chosen = None
        return ViewSettings(backbone=CLASSIFIER, method=settings.method, upsampler=chosen, fit=settings.fit)

    def class_field(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> FeatureField:
        """The features that evidence for a class is read from: those that the backbone's own head sees, upsampled.

        Of joint bilateral weights that expect normalised features, or features of another layer, only the stages are used; other
        methods are untrained then.
        """
        features = self.features(image, settings, progress)
        upsampler = self._upsampler(settings, features)
        if upsampler is not None:
            try:
                upsampler.check_fits(settings.backbone, features.layer, features.channels)
                fits = upsampler.norm is None
            except UpsamplerError:
                fits = False
            if not fits:
                upsampler = upsampler.stages_alone() if upsampler.method == "jbu" else None
        return self._field(image, settings, features, upsampler, progress)

    def cam_view(
        self, image: Image, settings: ViewSettings, chosen: str | int | None = None, progress: Progress = silent
    ) -> CAMView:
        """Evidence for a class: its name or index, or the most probable one if None.

        Explained by the chosen backbone if it has a head, else by the bundled classifier. The map has the size of the other
        views. Raises LensError for an unknown class, and what :meth:`output_size` raises.
        """
        size = self._wanted_size(image, settings, progress)
        classifier, note = self.class_settings(settings, progress), None
        if classifier.backbone != settings.backbone:
            title = self.backbone(settings, progress).title
            note = f"{title} has no classes; they come from {self.backbone(classifier, progress).title}."
        backbone = self.backbone(classifier, progress)
        progress("classifying", 0, 0)
        logits = self._logits.get(
            _map_key(image, classifier.with_(layer=None)),
            lambda: backbone.logits(image, size=classifier.input_size, progress=progress),
        )
        names = backbone.class_names
        best = top_classes(logits, names)
        index = best[0].index if chosen is None else chosen if isinstance(chosen, int) else find_class(names, chosen)
        if not 0 <= index < len(names):
            index = find_class(names, str(index))
        probability = float(torch.softmax(logits.float(), dim=0)[index])
        progress("explaining the class", 0, 0)
        layer, weights = backbone.class_weights(image, [index], size=classifier.input_size, progress=progress)
        classifier = classifier.with_(layer=layer)
        if classifier.fit is not None and not self.fits.serves(
            classifier.fit, self.features(image, classifier, progress)
        ):
            # Nobody asked for a fit of the classifier's features, and it would take as long as the one that was asked for.
            classifier = classifier.with_(method="jbu", fit=None)
            note = (
                f"{note or 'The class is read from other features than those of the fit.'} FeatUp JBU brings them up."
            )
        field = self.class_field(image, classifier, progress)
        self._check_memory(field, size, field.bytes_per_pixel(1) + _VIEW_BYTES_PER_PIXEL)
        values = cam(field, weights, size=size, progress=progress)[0]
        return CAMView(
            facts=self.facts(image, classifier, field, size, progress),
            chosen=ClassChoice(index, names[index], probability),
            top=tuple(ClassChoice(score.index, score.name, score.probability) for score in best),
            values=_array(values),
            kind="CAM" if layer == "head" else "Grad-CAM",
            note=note,
            class_names=names,
        )


_VIEW_BYTES_PER_PIXEL = 3 * 4 + 3 + 3 * 4
"""A view's values, its picture, and the intermediate of making it."""


def _map_key(image: Image, settings: ViewSettings) -> Hashable:
    return image.sha256, settings.backbone, settings.weights_file, settings.layer, settings.input_size


def _source(field: FeatureField, own: FeatureMap) -> FeatureMap:
    """The low-resolution map in the space of a field: the backbone's own, unless the field has one that is normalised."""
    source: FeatureMap = getattr(field, "source", own)
    return source


def _weights_key(upsampler: Upsampler | None) -> Hashable:
    return None if upsampler is None else (upsampler.path, upsampler.sha256, upsampler.title, upsampler.channels)


def _array(values: Any) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
