"""``featup-app evaluate``: upsampling methods compared on pictures, with or without labels."""

from __future__ import annotations

import typer

from featup_app.cli import evaluate_options as options
from featup_app.cli.options import (
    BackboneName,
    Channels,
    Checkpoint,
    Device,
    InputSize,
    LayerName,
    Page,
    Range,
    ReportAsJSON,
    UpsamplerChoice,
    selection_of,
)
from featup_app.cli.tables import print_report, print_summary
from featup_app.cli.terminal import CANCELLED, print_json, print_line, print_message, progress_bar
from featup_app.evaluation.run import EvaluationRequest, EvaluationResult, run_evaluation
from featup_app.evaluation.tasks import find_task
from featup_app.images.selection import AUTO


def evaluate(
    output: options.Output,
    data: options.Data,
    task: options.TaskName = EvaluationRequest.task,
    methods: options.Methods = EvaluationRequest.methods,
    train: options.TrainFolders = None,
    cross: options.Cross = EvaluationRequest.cross,
    layout: options.Layout = EvaluationRequest.layout,
    depth_unit: options.DepthUnit = None,
    protocol: options.Protocols = "",
    probe: options.Probe = "",
    backbone: BackboneName = EvaluationRequest.backbone,
    checkpoint: Checkpoint = None,
    cam_backbone: options.CamBackbone = None,
    layer: LayerName = None,
    size: InputSize = None,
    upsampler: UpsamplerChoice = None,
    folds: options.Folds = EvaluationRequest.folds,
    repeats: options.Repeats = EvaluationRequest.repeats,
    steps: options.Steps = None,
    limit: options.Limit = None,
    page: Page = "",
    channels: Channels = "",
    range: Range = AUTO,
    seed: options.Seed = 0,
    fresh: options.Fresh = False,
    device: Device = None,
    costs: options.Costs = True,
    pictures: options.Pictures = EvaluationRequest.pictures,
    workers: options.Workers = 1,
    as_json: ReportAsJSON = False,
) -> None:
    """Compare upsampling methods on a folder of pictures.

    Prints a table and writes report.json, report.csv and report.html, a page with the tables, plots and sample pictures that
    needs no other file. Each result is written to results.jsonl at once: run the same command again to resume an interrupted
    evaluation. Pictures that fail are listed and skipped.
    """
    request = EvaluationRequest(
        data=tuple(data),
        train=tuple(train or ()),
        protocols=tuple(dict.fromkeys(part.strip() for part in protocol.split(",") if part.strip())),
        output=output,
        task=task,
        methods=methods,
        cross=cross,
        layout=layout,
        depth_unit=depth_unit,
        probe=probe,
        backbone=backbone,
        checkpoint=checkpoint,
        cam_backbone=cam_backbone,
        layer=layer,
        size=size,
        upsampler=upsampler,
        folds=folds,
        repeats=repeats,
        steps=steps,
        limit=limit,
        selection=str(selection_of(page, channels, range)),
        seed=seed,
        fresh=fresh,
        device=device,
        costs=costs,
        pictures=pictures,
        workers=workers,
    )
    try:
        with progress_bar() as progress:
            result = run_evaluation(request, progress=progress)
    except KeyboardInterrupt:
        print_message("Cancelled; the results so far are kept. Run the same command again to resume.")
        raise typer.Exit(CANCELLED) from None
    _print(result, as_json)


def _print(result: EvaluationResult, as_json: bool) -> None:
    """Print what could not be measured to stderr, and tables and files (or JSON) to stdout."""
    all_tasks = result.summary is not None
    for note in result.notes:
        print_message(note)
    for name, why in result.passed_over:
        print_message(f"The task {name} was passed over: {why}")
    for report in result.reports:
        for picture, reason in report.failures:
            print_message(f"{picture} was passed over{f' by {report.task}' if all_tasks else ''}: {reason}")
    if as_json:
        reports = [report.as_dict() for report in result.reports]
        print_json(reports[0] if result.summary is None else {"summary": result.summary.as_dict(), "reports": reports})
        return
    for report in result.reports:
        if all_tasks:
            print_line(f"{report.task}: {find_task(report.task).title}")
        print_report(report)
    if result.summary is not None:
        print_line("All tasks")
        print_summary(result.summary)
    for path in result.files:
        print_line(str(path))
