"""The backbone with a lowered stride: the row "strided" of the paper's table (FeatUp, ICLR 2024, section 4).

Patches of a transformer overlap, strides of a convolutional network give way to spread kernels; see
:mod:`featup_app.backbones.finer_stride`. The features come from the backbone itself, which runs over
``factor ** 2`` times as many cells; between the finer cells they are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featup_app.backbones.finer_stride import finer_features
from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap
from featup_app.fields.finer import FinerField, FinerGrid, whole_number
from featup_app.images import Image

FACTOR = 2
"""Finer cells per cell of the backbone, along rows and along columns."""

_LARGEST_FACTOR = 16


def make_field(
    features: FeatureMap, image: Image, options: Mapping[str, Any], progress: Progress = silent
) -> FinerField:
    """The field, for :func:`~featup_app.fields.upsample`.

    Args:
        features: of the whole image; its backbone is run again at the same input size.
        image: the picture.
        options: ``factor``, by which the stride is divided, :data:`FACTOR` if not given.
        progress: called between the blocks of the backbone; may cancel.

    Raises:
        UpsamplerError: if the factor is no whole number above 1.
        BackboneError: if the stride of this backbone cannot be lowered so far.
    """
    factor = whole_number("strided", "factor", options.get("factor", FACTOR), least=2, most=_LARGEST_FACTOR)
    pixels = features.backbone.resized(image, features.geometry.input_hw)
    finer = finer_features(features.backbone, pixels[None], features.layer, factor, progress)
    settings = {"factor": factor, "stride": finer.stride, "interpolation": "bilinear"}
    return FinerField(
        features, finer.data, FinerGrid.from_first_cells(finer.scale), method="strided", settings=settings
    )
