"""The plan of an evaluation: backbone, methods, pictures and settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featup_app.base.errors import EvaluationError
from featup_app.evaluation.datasets import Dataset
from featup_app.evaluation.methods import MethodChoice, PreparedMethod
from featup_app.export.provenance import versions

if TYPE_CHECKING:
    from featup_app.backbones import Backbone

FOLDS = 3
REPEATS = 3
CROSSINGS = ("auto", "frames", "scenes")

Values = dict[str, Any]
"""The result of one picture under one configuration, JSON-able."""


@dataclass(frozen=True)
class Plan:
    """Settings of the measurements. Each task checks the parts that it uses.

    Attributes:
        backbone: the backbone whose features are upsampled.
        methods: the rows of the table.
        data: the pictures to measure on.
        train: the pictures to fit probes on; None if nothing is fitted.
        size: size of the backbone's input, as in ``backbone.extract``.
        layer: layer of the backbone; None for its default.
        seed: seed of all random numbers; bootstrap, held-out views and samples each have a random generator of their own.
        folds: number of folds of the training pictures.
        probe: kind of probe of the task; empty for its default.
        protocols: protocols of the task; empty for its default.
        cross: without training pictures, which pictures probes are fitted on: those of other ``scenes``, other ``frames``, or
            ``auto``.
        repeats: number of trainings, each with a seed of its own, where the upsampler itself is trained.
        steps: steps of such a training; None for the task's default.
    """

    backbone: Backbone
    methods: tuple[MethodChoice, ...]
    data: Dataset
    train: Dataset | None = None
    size: str | None = None
    layer: str | None = None
    seed: int = 0
    folds: int = FOLDS
    probe: str = ""
    protocols: tuple[str, ...] = ()
    cross: str = CROSSINGS[0]
    repeats: int = REPEATS
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.cross not in CROSSINGS:
            raise EvaluationError(
                f'Pictures cannot be crossed by "{self.cross}"; choose one of: {", ".join(CROSSINGS)}.'
            )

    def prepared(self, *, for_head: bool = False) -> tuple[PreparedMethod, ...]:
        """The methods with their weights loaded.

        Args:
            for_head: whether the backbone's own head is applied to the fields.

        Raises:
            UpsamplerError: if weights do not fit.
        """
        layer = self.backbone.layer(self.layer)
        return tuple(
            choice.prepare(self.backbone.name, layer.name, layer.channels, for_head=for_head) for choice in self.methods
        )

    def facts(self) -> Values:
        """Everything that results of all tasks depend on, JSON-able."""
        return {
            "backbone": self.backbone.name,
            "weights_sha256": self.backbone.provenance.get("weights_sha256"),
            "layer": self.backbone.layer(self.layer).name,
            "input_size": self.size,
            "seed": self.seed,
            "software": versions(),
        }
