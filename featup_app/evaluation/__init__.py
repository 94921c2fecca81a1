"""Yardsticks: data sets, held-out reprojection, probes, and the tables made of them. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.evaluation.datasets import Dataset, Item, labelled_images, photos, rgbd_images
    from featup_app.evaluation.layouts import LAYOUTS, detect_layout, find_layout, open_dataset
    from featup_app.evaluation.methods import MethodChoice, parse_methods
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.probes import LinearProbe, Moments, fit_logistic, fit_ridge
    from featup_app.evaluation.report import Report, Row
    from featup_app.evaluation.segmentation import (
        Frame,
        ProbeSet,
        SegmentationScore,
        fit_lowres_probes,
        fit_upsampled_probes,
        load_frames,
        score_segmentation,
    )
    from featup_app.evaluation.sources import Sources
    from featup_app.evaluation.tasks import TASKS, Task, find_task

__all__ = [
    "Dataset",
    "Frame",
    "Item",
    "LAYOUTS",
    "LinearProbe",
    "MethodChoice",
    "Moments",
    "Plan",
    "ProbeSet",
    "Report",
    "Row",
    "SegmentationScore",
    "Sources",
    "TASKS",
    "Task",
    "detect_layout",
    "find_layout",
    "find_task",
    "fit_logistic",
    "fit_lowres_probes",
    "fit_ridge",
    "fit_upsampled_probes",
    "labelled_images",
    "load_frames",
    "open_dataset",
    "parse_methods",
    "photos",
    "rgbd_images",
    "score_segmentation",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Dataset": "datasets",
        "Item": "datasets",
        "labelled_images": "datasets",
        "photos": "datasets",
        "rgbd_images": "datasets",
        "LAYOUTS": "layouts",
        "detect_layout": "layouts",
        "find_layout": "layouts",
        "open_dataset": "layouts",
        "MethodChoice": "methods",
        "parse_methods": "methods",
        "LinearProbe": "probes",
        "Moments": "probes",
        "fit_logistic": "probes",
        "fit_ridge": "probes",
        "Report": "report",
        "Row": "report",
        "Plan": "plan",
        "Frame": "segmentation",
        "ProbeSet": "segmentation",
        "SegmentationScore": "segmentation",
        "fit_lowres_probes": "segmentation",
        "fit_upsampled_probes": "segmentation",
        "load_frames": "segmentation",
        "score_segmentation": "segmentation",
        "Sources": "sources",
        "TASKS": "tasks",
        "Task": "tasks",
        "find_task": "tasks",
    },
)
