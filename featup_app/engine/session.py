"""One sitting at the program: loaded backbones, feature maps, fields and what lenses made of them, kept within a budget.

Window and command line get every number and picture from here, so that both give the same. Not thread-safe: one thread, the
engine lane's, owns a session with its models and its device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from featup_app.backbones import Backbone, load_backbone
from featup_app.backbones.catalogue import CLASSIFIER
from featup_app.base.errors import BackboneError
from featup_app.base.files import file_state
from featup_app.base.peak_memory import release_free_memory
from featup_app.base.progress import Progress, silent
from featup_app.engine import memory
from featup_app.engine.fits import Fits
from featup_app.engine.kept import Kept
from featup_app.engine.settings import BackboneFacts, ViewSettings, upsampler_facts
from featup_app.features import FeatureMap, Size
from featup_app.fields import DEFAULT_METHOD, METHODS, FeatureField, Upsampler, find_method, upsample
from featup_app.fields.field import DEFAULT_TILE_BUDGET
from featup_app.fields.weights import choose, loaded_upsampler, options_for
from featup_app.images import Image
from featup_app.lenses import FieldFacts, LensView, Look, Request, find_lens
from featup_app.lenses.lens import Classes, Evidence
from featup_app.lenses.look import UpsamplerFacts
from featup_app.lenses.masking import MaskedProbability, masked_probability
from featup_app.sizes import resolve_output_size

if TYPE_CHECKING:
    from torch import Tensor

_Value = TypeVar("_Value")


class Session:
    """Computes views of images.

    Args:
        device: torch device; CUDA if there is one, else the CPU.
        memory_budget: bytes that one view or tile may use; a share of the free memory if not given.
        keep_bytes: budget of what is kept for later requests; a third of the machine's memory if not given.

    Attributes:
        kept: backbones, maps, fields, logits and what lenses remember; fits count too, but only a person discards them.
        fits: the fits of this sitting.
    """

    def __init__(
        self, *, device: str | None = None, memory_budget: int | None = None, keep_bytes: int | None = None
    ) -> None:
        self.device = device
        self._memory_budget = memory_budget
        self.fits = Fits()
        self.kept = Kept(keep_bytes or memory.default_keep_bytes(), beside=self.fits)

    def keep(self, keep_bytes: int | None) -> None:
        """Change the budget of what is kept, and drop what is too much; None for the default."""
        self.kept.budget = keep_bytes or memory.default_keep_bytes()
        self.kept.settle()

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

        return self.kept.get("backbone", (settings.backbone, _weights_state(settings)), load)

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
            fixed_size=backbone.fixed_hw is not None,
        )

    def features(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> FeatureMap:
        """The low-resolution map. Raises BackboneError, SizeError."""
        backbone = self.backbone(settings, progress)

        def extract() -> FeatureMap:
            progress("extracting features", 0, 0)
            release_free_memory()  # that other pictures and sizes left
            return backbone.extract(image, size=settings.input_size, layer=settings.layer, progress=progress)

        return self.kept.get("map", _map_key(image, settings), extract, picture=image.sha256)

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
        options = options_for(settings.method, upsampler)
        return self.kept.get(
            "field",
            self._field_key(image, settings, upsampler),
            lambda: upsample(features, image, settings.method, progress=progress, **options),
            picture=image.sha256,
        )

    def field_key(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> Hashable:
        """Equal for equal fields; computes no field."""
        return self._field_key(image, settings, self._upsampler(settings, self.features(image, settings, progress)))

    def _field_key(self, image: Image, settings: ViewSettings, upsampler: Upsampler | None) -> Hashable:
        if settings.method == "implicit" and settings.fit is not None:
            return _map_key(image, settings), "fit", self.fits.version(settings.fit, latest=settings.fit_latest)
        weights = None if upsampler is None else (upsampler.path, upsampler.sha256, upsampler.title, upsampler.channels)
        return _map_key(image, settings), settings.method, weights

    def _upsampler(self, settings: ViewSettings, features: FeatureMap, *, for_head: bool = False) -> Upsampler | None:
        """The trained weights that the method uses. A chosen file serves the method that it is for, and no other."""
        return choose(settings.method, features, upsampler=settings.upsampler, for_head=for_head, any_method=True)

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
        upsampler = loaded_upsampler(settings.upsampler_file)
        if not any_method:
            upsampler.check_method(settings.method)
        backbone = self.backbone(settings, progress)
        layer = backbone.layer(settings.layer)
        upsampler.check_fits(backbone.name, layer.name, layer.channels)
        return upsampler_facts(settings, upsampler.facts())

    def wanted_size(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> Size:
        """(H, W) of the upsampled maps, whether they fit into memory or not. Raises SizeError."""
        grid_hw = self.features(image, settings, progress).geometry.grid_hw
        return resolve_output_size(settings.output_size, image_hw=image.size_hw, grid_hw=grid_hw)

    # -- looks and views ---------------------------------------------------------------------------------------------

    def look(
        self,
        image: Image,
        settings: ViewSettings,
        progress: Progress = silent,
        *,
        channels: int = 3,
        in_tiles: int = 0,
        size: Size | None = None,
        for_head: bool = False,
    ) -> Look:
        """The features of an image at their output size, for lenses, exports and records of provenance.

        Args:
            image: the picture.
            settings: backbone, layer, sizes and method.
            progress: may cancel.
            channels: how many a view computes at once, which have to fit into memory; 0 if the output is written tile by
                tile, so that none of it has to fit as a whole.
            in_tiles: how many it computes beside them in tiles.
            size: (H, W); what the settings say if not given.
            for_head: whether the features are those that the backbone's own head reads.

        Raises:
            BackboneError, UpsamplerError: if the features cannot be computed.
            SizeError: if the size is not understood, or does not fit into memory.
        """
        features = self.features(image, settings, progress)
        upsampler = self._upsampler(settings, features, for_head=for_head)
        field = self._field(image, settings, features, upsampler, progress)
        size = size or self.wanted_size(image, settings, progress)
        per_pixel = field.bytes_per_pixel(channels) + _VIEW_BYTES_PER_PIXEL if channels else 0.0
        per_tile_pixel = field.bytes_per_pixel(in_tiles) if in_tiles else 0.0

        def needed(wanted: Size) -> float:
            area = wanted[0] * wanted[1]
            return field.fixed_bytes(wanted) + area * per_pixel + min(area * per_tile_pixel, DEFAULT_TILE_BUDGET)

        if needed(size) > self.memory_budget:
            self.kept.free(needed(size) - self.memory_budget)
        budget = self.memory_budget
        memory.check_output_fits(size, needed, budget)
        return Look(
            features=features,
            field=field,
            size=size,
            facts=self._facts(settings, features, field, size, progress),
            map_key=_map_key(image, settings),
            field_key=self._field_key(image, settings, upsampler),
            spare_bytes=min(budget - needed(size), self.kept.budget),
        )

    def _facts(
        self, settings: ViewSettings, features: FeatureMap, field: FeatureField, size: Size, progress: Progress
    ) -> FieldFacts:
        settings_of_field = field.settings()
        weights, restoration = settings_of_field.get("upsampler"), settings_of_field.get("restoration")
        return FieldFacts(
            backbone=settings.backbone,
            backbone_title=self.backbone(settings, progress).title,
            backbone_notes=self.backbone(settings, progress).notes,
            layer=features.layer,
            channels=features.channels,
            geometry=features.geometry,
            method=settings.method,
            size=size,
            upsampler=upsampler_facts(settings, weights if isinstance(weights, dict) else None)
            if find_method(settings.method).takes_weights
            else None,
            restoration=None if restoration is None else str(restoration),
        )

    def view(self, image: Image, settings: ViewSettings, request: Request, progress: Progress = silent) -> LensView:
        """The answer of a lens. Raises LensError for what it cannot show, and what :meth:`look` raises."""
        return self.view_and_look(image, settings, request, progress)[0]

    def view_and_look(
        self, image: Image, settings: ViewSettings, request: Request, progress: Progress = silent
    ) -> tuple[LensView, Look]:
        """The answer of a lens, and the look that it was read from."""
        try:
            answer: tuple[LensView, Look] = find_lens(request.lens).view(
                request, _Looks(self, image, settings), progress
            )
            return answer
        finally:
            self.kept.settle()

    def remember(self, image: Image, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What was computed of an image for a key before, or is computed now."""
        return self.kept.get("remembered", key, make, picture=image.sha256)

    def prepare(
        self, image: Image, settings: ViewSettings, first: Request, shown: Image, progress: Progress = silent
    ) -> bool:
        """Compute what the backbones have to run for, and what a first view reads, before views of an image are asked for.

        Returns whether it did. Where memory is short, or what is kept of other pictures might be dropped for it, nothing is
        computed.

        Args:
            image: the picture that may be shown next.
            settings: those that it would be shown with.
            first: the request whose view would be computed first. The view is not kept, but what lens and field keep for it is.
            shown: the picture that is shown, of which nothing is dropped before anything of others.
            progress: may cancel.

        Raises:
            FeatUpError: if the features cannot be computed.
        """
        if self.memory_budget < memory.PREPARE_BYTES or not self.kept.has_room():
            return False
        try:
            self.view(image, settings, first, progress)
            classes = self.class_settings(settings, progress)
            with suppress(BackboneError):  # a backbone without class maps says so when one is looked at
                self.logits(image, classes, progress)
                route = self.backbone(classes, progress).class_route
                self.features(image, classes.with_(layer=route.layer), progress)
        finally:
            self.kept.touch(shown.sha256)
            self.kept.settle()
        return True

    # -- classes -----------------------------------------------------------------------------------------------------

    def class_settings(self, settings: ViewSettings, progress: Progress = silent) -> ViewSettings:
        """The settings under which classes are explained: the same if the backbone has a head, else the classifier's.

        Chosen upsampler weights stay chosen if they serve the classifier too; else its bundled ones are used.
        """
        if self.backbone(settings, progress).has_head:
            return settings
        chosen = settings.upsampler
        if settings.upsampler_file and not loaded_upsampler(settings.upsampler_file).universal:
            chosen = None
        return ViewSettings(backbone=CLASSIFIER, method=settings.method, upsampler=chosen, fit=settings.fit)

    def logits(self, image: Image, settings: ViewSettings, progress: Progress = silent) -> Tensor:
        """(classes) float32 logits of the image. Raises BackboneError."""
        backbone = self.backbone(settings, progress)
        return self.kept.get(
            "logits",
            _map_key(image, settings.with_(layer=None)),
            lambda: backbone.logits(image, size=settings.input_size, progress=progress),
            picture=image.sha256,
        )


_VIEW_BYTES_PER_PIXEL = 3 * 4 + 3 + 3 * 4
"""A view's values, its picture, and the intermediate of making it."""


class _Looks:
    """:class:`~featup_app.lenses.lens.Looks` at an image, as a session answers them.

    Args:
        session: computes and remembers features, fields and what lenses want remembered.
        image: the picture.
        settings: backbone, layer, sizes and method.
    """

    def __init__(self, session: Session, image: Image, settings: ViewSettings) -> None:
        self._session, self._image, self._settings = session, image, settings

    @property
    def image(self) -> Image:
        return self._image

    def look(self, progress: Progress = silent, *, channels: int = 3, in_tiles: int = 0) -> Look:
        """The features that the settings choose, at their output size."""
        return self._session.look(self._image, self._settings, progress, channels=channels, in_tiles=in_tiles)

    def alternatives(self, progress: Progress = silent) -> Sequence[FeatureField]:
        """The fields of all quick methods, and of the chosen one, with the same coarse map as the chosen one."""
        viewed = self._session.field(self._image, self._settings, progress)
        quick = [method.name for method in METHODS if method.quick]  # the others would take minutes, unasked
        fields = [
            viewed
            if name == self._settings.method
            else self._session.field(self._image, self._settings.with_(method=name), progress)
            for name in quick
        ]
        return [
            field
            for field in fields
            # A map that was extracted again is another object with the same features.
            if field.coarse is viewed.coarse or not (field.coarse.normalised or viewed.coarse.normalised)
        ]

    def alternatives_key(self, progress: Progress = silent) -> Hashable:
        """The weights of all methods; computes no field."""
        keys = (
            self._session.field_key(self._image, self._settings.with_(method=method.name, fit=None), progress)
            for method in METHODS
        )
        return tuple(keys)

    # -- classes ---------------------------------------------------------------------------------------------------------

    def classes(self, progress: Progress = silent) -> Classes:
        """The classes of the chosen backbone, or of the bundled classifier if that has none."""
        self._wanted_size(progress)  # a size that is not understood fails before anything is computed
        settings = self._session.class_settings(self._settings, progress)
        names = self._session.backbone(settings, progress).class_names
        progress("classifying", 0, 0)
        return Classes(names, self._session.logits(self._image, settings, progress))

    def evidence(
        self, classes: Sequence[int] | None, progress: Progress = silent, *, gradients: bool = False
    ) -> Evidence:
        """The features, and the weights or gradients, that classes or the embedding of the picture are explained with.

        Evidence is read from the features that the backbone's own head sees. Where the chosen method is a fit of other
        features, the default method replaces it: another fit would take seconds, and was not asked for.
        """
        session, note, what = self._session, None, "class" if classes else "embedding"
        settings = self._settings if classes is None else session.class_settings(self._settings, progress)
        if settings.backbone != self._settings.backbone:
            title = session.backbone(self._settings, progress).title
            note = f"{title} has no classes; they come from {session.backbone(settings, progress).title}."
        backbone, kind = session.backbone(settings, progress), "Grad-CAM"
        weights: Tensor | None = None
        maps: Sequence[Tensor] = ()
        if classes is None or gradients:
            layer, maps = backbone.evidence_gradients(self._image, classes, size=settings.input_size, progress=progress)
        else:
            layer, weights = backbone.class_weights(self._image, classes, size=settings.input_size, progress=progress)
            kind = backbone.class_method(layer)
        if backbone.layer(settings.layer).name != layer:  # under another name the same map would be extracted again
            settings = settings.with_(layer=layer)
        features = session.features(self._image, settings, progress)
        if settings.fit is not None and not session.fits.serves(settings.fit, features):
            settings = settings.with_(method=DEFAULT_METHOD, fit=None)
            note = note or f"The {what} is read from other features than those of the fit."
            note = f"{note} {find_method(DEFAULT_METHOD).title} brings them up."
        size, count = self._wanted_size(progress), len(classes or [0])
        look = session.look(self._image, settings, progress, channels=count, size=size, for_head=True)
        return Evidence(look, weights, maps, kind, note)

    def masked_probability(self, index: int, values: Tensor, progress: Progress = silent) -> MaskedProbability:
        """The probability of a class on the picture and on the picture multiplied by a map, from the backbone of the classes."""
        settings = self._session.class_settings(self._settings, progress)
        backbone = self._session.backbone(settings, progress)
        progress("measuring the average drop", 0, 0)
        return masked_probability(backbone, self._image, index, values, size=settings.input_size)

    def _wanted_size(self, progress: Progress) -> Size:
        """(H, W) of the other views: the map of a class has their size, whatever its own grid."""
        return self._session.wanted_size(self._image, self._settings, progress)

    def remember(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value made for a key before, or made now."""
        return self._session.remember(self._image, key, make)


def _map_key(image: Image, settings: ViewSettings) -> Hashable:
    return image.sha256, settings.backbone, _weights_state(settings), settings.layer, settings.input_size


def _weights_state(settings: ViewSettings) -> Hashable:
    """Differs between the weights of a backbone, also when its file was written again."""
    return None if settings.weights_file is None else file_state(settings.weights_file)
