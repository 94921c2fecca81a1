"""What an evaluation is to measure: backbone, methods, pictures and settings. Imports no torch."""

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
"""What is kept of one picture under one configuration, JSON-able."""


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated. Each task says in ``TASKS`` which parts it uses, and checks them.

    Attributes:
        backbone: whose features are upsampled.
        methods: the rows of the table.
        data: the pictures to measure on.
        train: the pictures that probes are fitted on; None where nothing is fitted.
        size: of the backbone's input, as in ``backbone.extract``.
        layer: of the backbone; None for its default.
        seed: of everything drawn by chance; bootstrap, held-out views and samples each have a stream of their own.
        folds: of the training pictures.
        probe: the kind of probe, one of the task's; empty for its default.
        protocols: some of the task's; empty for its default.
        cross: how pictures are parted to be measured with probes of others where there are no training pictures: by
            ``scenes``, by ``frames``, or ``auto``.
        repeats: trainings from seeds of their own, where the upsampler itself is trained.
        steps: of such a training; None for the task's default.
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
        """The methods with their weights at hand.

        Args:
            for_head: whether fields have to hold the features that the backbone's own head reads.

        Raises:
            UpsamplerError: if weights do not fit.
        """
        layer = self.backbone.layer(self.layer)
        return tuple(
            choice.prepare(self.backbone.name, layer.name, layer.channels, for_head=for_head) for choice in self.methods
        )

    def facts(self) -> Values:
        """What every result depends on, JSON-able."""
        return {
            "backbone": self.backbone.name,
            "weights_sha256": self.backbone.provenance.get("weights_sha256"),
            "layer": self.backbone.layer(self.layer).name,
            "input_size": self.size,
            "seed": self.seed,
            "software": versions(),
        }
