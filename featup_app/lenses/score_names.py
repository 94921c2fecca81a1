"""The label-free scores as tables show them: title, what they mean in plain words, which way is better. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreName:
    """How a table shows one score.

    Attributes:
        key: name of the field in :class:`~featup_app.lenses.quality.QualityScores`.
        title: one or two words for the head of a column.
        meaning: one or two sentences for a person who has not read the paper.
        higher_is_better: which way it improves.
        decimals: digits after the point that mean something.
    """

    key: str
    title: str
    meaning: str
    higher_is_better: bool
    decimals: int = 3

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


SCORES: tuple[ScoreName, ...] = (
    ScoreName(
        "edge_alignment",
        "Edges",
        "Edge alignment: where the features change, does the change fall on an edge of the image? 0.5 is chance, 1 is always. "
        "A method that copies every texture of the image scores high too.",
        True,
        2,
    ),
    ScoreName(
        "preservation_error",
        "Drift",
        "Preservation error: the upsampled features are averaged back to the coarse cells and compared with what the backbone "
        "said there. 0 is the same, 1 is as wrong as one feature for the whole image.",
        False,
    ),
    ScoreName(
        "haze",
        "Haze",
        "Haze: a little off an edge of the photo, how much of the other side's features has leaked over? 0 is nothing, 0.25 is "
        "the soft ramp of bilinear interpolation, 0.5 is half of either side.",
        False,
        2,
    ),
    ScoreName(
        "mottling",
        "Mottle",
        "Mottling: how much features vary where photo and coarse features are both smooth, beyond bilinear interpolation, in "
        "standard deviations of the features. Blotches and ripples in skies and walls raise it.",
        False,
    ),
    ScoreName(
        "lettering",
        "Letters",
        "Lettering: how much of the photo's texture, such as letters, grain or fabric, stands in the features where neighbouring "
        "cells agree that all is one thing, in standard deviations of the features.",
        False,
    ),
    ScoreName(
        "halo_share",
        "Halo",
        "Halo share: the part of the values that lie outside what the nine coarse cells around them reach, as bright or dark "
        "rims beside edges do. Details smaller than a cell also need some.",
        False,
    ),
    ScoreName(
        "halo_size",
        "Overshoot",
        "Halo size: by how much values lie outside what the nine coarse cells around them reach, in standard deviations of the "
        "features.",
        False,
    ),
    ScoreName(
        "preservation_cosine",
        "Cosine",
        "Preservation cosine: after averaging back to the coarse cells, do the features point the same way, seen from the mean "
        "feature of the image? 1 is the same way, 0 is unrelated.",
        True,
    ),
    ScoreName(
        "held_out_error",
        "Held-out",
        "Held-out reprojection error: the backbone looks at sixteen moved and zoomed views of the image, and the upsampled "
        "features are asked to explain what it sees there. 0 is perfectly, 1 is no better than one feature for each view.",
        False,
    ),
)
"""In the order of the columns."""
