"""What a lens may ask of a session about one image under one choice of settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

from featup_app.base.progress import Progress, silent
from featup_app.features import Size
from featup_app.fields import METHODS
from featup_app.lenses.lens import Classes, ClassEvidence
from featup_app.lenses.look import Look

if TYPE_CHECKING:
    from featup_app.engine.session import Session
    from featup_app.engine.views import ViewSettings
    from featup_app.fields import FeatureField
    from featup_app.images import Image

_Value = TypeVar("_Value")


class SessionLooks:
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

    def look(self, progress: Progress = silent, *, channels: int = 3) -> Look:
        """The features that the settings choose, at their output size."""
        return self._session.look(self._image, self._settings, progress, channels=channels)

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
        return [field for field in fields if field.coarse is viewed.coarse]

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

    def class_evidence(self, index: int, progress: Progress = silent) -> ClassEvidence:
        """The features and weights that a class is explained with.

        Evidence is read from the features that the backbone's own head sees. Where the chosen method is a fit of other
        features, joint bilateral upsampling stands in for it, since nobody asked for a fit of these.
        """
        session, note = self._session, None
        settings = session.class_settings(self._settings, progress)
        if settings.backbone != self._settings.backbone:
            title = session.backbone(self._settings, progress).title
            note = f"{title} has no classes; they come from {session.backbone(settings, progress).title}."
        backbone = session.backbone(settings, progress)
        layer, weights = backbone.class_weights(self._image, [index], size=settings.input_size, progress=progress)
        settings = settings.with_(layer=layer)
        features = session.features(self._image, settings, progress)
        if settings.fit is not None and not session.fits.serves(settings.fit, features):
            settings = settings.with_(method="jbu", fit=None)
            note = (
                f"{note or 'The class is read from other features than those of the fit.'} FeatUp JBU brings them up."
            )
        look = session.look(
            self._image, settings, progress, channels=1, size=self._wanted_size(progress), for_head=True
        )
        return ClassEvidence(look, weights, "CAM" if layer == "head" else "Grad-CAM", note)

    def _wanted_size(self, progress: Progress) -> Size:
        """(H, W) of the other views: the map of a class has their size, whatever its own grid."""
        return self._session.wanted_size(self._image, self._settings, progress)

    def remember(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value made for a key before, or made now."""
        return self._session.remember(key, make)
