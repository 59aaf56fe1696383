"""The same comparison as a report in W&B, through its report interface; written only where W&B could log in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tvr_lightning.errors import RunError
from tvr_lightning.run.results import Run

TITLE = "Text-video retrieval runs"
PACKAGE = "wandb_workspaces"
FIGURES = ("R@1", "R@5", "R@10", "mAP")
CURVES = ("train/loss", "val/SumR", "val/t2v/R@1", "val/v2t/R@1")
TABLES = ("gallery/queries", "gallery/worst", "gallery/metrics")


def write_report(runs: Sequence[Run]) -> str:
    """Saves the report, in place of an earlier one of this title.

    Returns:
        One line that says what was done, or why nothing was.

    Raises:
        RunError: W&B refuses it or cannot be reached.
    """
    from tvr_lightning.run.trackers import wandb_has_key

    if os.environ.get("WANDB_MODE", "online") != "online" or not wandb_has_key():
        return "W&B: offline or without a key, only the page was written"
    if find_spec(PACKAGE) is None:
        return "W&B: only the page was written; for a report there install tvr-lightning[reports]"
    import wandb

    project = os.environ.get("WANDB_PROJECT", "tvr_lightning")
    try:
        api = wandb.Api()
        entity = os.environ.get("WANDB_ENTITY") or api.default_entity or ""
        report = build_report(runs, entity, project)
        if project in [p.name for p in api.projects(entity)]:
            earlier = [r for r in api.reports(f"{entity}/{project}") if r.display_name == TITLE]
            report.id = earlier[0].id if earlier else ""
        return f"W&B: {report.save().url}"
    except Exception as error:  # a refusal comes in many classes, down to bare `Exception`; all mean the same here
        raise RunError(f"the page is written, the report in W&B is not: {error}") from error


def build_report(runs: Sequence[Run], entity: str, project: str) -> Any:
    """The report's definition: per dataset and split R@K and mAP side by side, curves, tables.

    It holds no figures: W&B fills it from the runs that were sent there.
    """
    reports = import_module(f"{PACKAGE}.reports.v2")
    blocks: list[Any] = [reports.TableOfContents()]
    for dataset, split in sorted({(r.content["dataset"], r.content["split"]) for r in runs}):
        runset = reports.Runset(
            entity=entity,
            project=project,
            name=f"{dataset} {split}",
            filters=f"Config('dataset') = {json.dumps(dataset)} and Config('split') = {json.dumps(split)}",
        )
        bars = [
            reports.BarPlot(title=f"{name}, {title}", metrics=[reports.SummaryMetric(f"test/{direction}/{name}")])
            for direction, title in (("t2v", "text → video"), ("v2t", "video → text"))
            for name in FIGURES
        ]
        lines = [reports.LinePlot(title=name, x="epoch", y=[name]) for name in CURVES]
        tables = [reports.WeavePanelSummaryTable(table_name=name, layout=reports.Layout(w=24, h=16)) for name in TABLES]
        blocks += [
            reports.H1(f"{dataset} {split}"),
            reports.P("Runs whose `marks` are not empty are not comparable with the others."),
            reports.PanelGrid(runsets=[runset], panels=[*bars, *lines, reports.RunComparer(), *tables]),
        ]
    return reports.Report(
        entity=entity, project=project, title=TITLE, width="fluid", blocks=blocks,
        description="Written by `tvr dashboard`.",
    )  # fmt: skip
