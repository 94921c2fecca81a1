"""Evaluation: data sets, held-out reprojection, probes, and tables of their results. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.evaluation.clicks import Click, Clicks, find_clicks, score_clicks
    from featup_app.evaluation.costs import Cost, measure_costs, with_costs
    from featup_app.evaluation.datasets import Dataset, Item, labelled_images, photos, rgbd_images
    from featup_app.evaluation.drop_ins import DROP_INS, GuidedUpsampling, drop_in
    from featup_app.evaluation.end_to_end import SegmentationHead, train_head
    from featup_app.evaluation.html_report import html_page, write_html
    from featup_app.evaluation.layouts import LAYOUTS, detect_layout, find_layout, open_dataset
    from featup_app.evaluation.methods import MethodChoice, parse_methods
    from featup_app.evaluation.plan import Plan
    from featup_app.evaluation.probes import LinearProbe, Moments, fit_logistic, fit_ridge
    from featup_app.evaluation.report import Report, Row
    from featup_app.evaluation.samples import Sample, sample_pictures
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
    from featup_app.evaluation.summary import Summary, summarise
    from featup_app.evaluation.tasks import TASKS, Task, find_task

__all__ = [
    "Click",
    "Clicks",
    "Cost",
    "DROP_INS",
    "Dataset",
    "Frame",
    "GuidedUpsampling",
    "Item",
    "LAYOUTS",
    "LinearProbe",
    "MethodChoice",
    "Moments",
    "Plan",
    "ProbeSet",
    "Report",
    "Row",
    "Sample",
    "SegmentationHead",
    "SegmentationScore",
    "Sources",
    "Summary",
    "TASKS",
    "Task",
    "detect_layout",
    "drop_in",
    "find_clicks",
    "find_layout",
    "find_task",
    "fit_logistic",
    "fit_lowres_probes",
    "fit_ridge",
    "fit_upsampled_probes",
    "html_page",
    "labelled_images",
    "load_frames",
    "measure_costs",
    "open_dataset",
    "parse_methods",
    "photos",
    "rgbd_images",
    "sample_pictures",
    "score_clicks",
    "score_segmentation",
    "summarise",
    "train_head",
    "with_costs",
    "write_html",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Click": "clicks",
        "Clicks": "clicks",
        "find_clicks": "clicks",
        "score_clicks": "clicks",
        "Cost": "costs",
        "measure_costs": "costs",
        "with_costs": "costs",
        "DROP_INS": "drop_ins",
        "GuidedUpsampling": "drop_ins",
        "drop_in": "drop_ins",
        "SegmentationHead": "end_to_end",
        "train_head": "end_to_end",
        "html_page": "html_report",
        "write_html": "html_report",
        "Sample": "samples",
        "sample_pictures": "samples",
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
        "Summary": "summary",
        "summarise": "summary",
        "TASKS": "tasks",
        "Task": "tasks",
        "find_task": "tasks",
    },
)
