"""The same comparison as a report in W&B, through its report interface; written only where W&B could log in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tvr_lightning.errors import RunError
from tvr_lightning.report.comparison import Comparison, Row
from tvr_lightning.run.results import DIRECTIONS

TITLE = "Text-video retrieval runs"
PACKAGE = "wandb_workspaces"
CURVES = ("train/loss", "val/SumR", "val/t2v/R@1", "val/v2t/R@1")
TABLES = ("gallery/queries", "gallery/answers", "gallery/worst", "gallery/metrics")


def write_report(comparison: Comparison) -> str:
    """Saves the report, in place of an earlier one of this title.

    Returns:
        One line that says what was done, or why nothing was.

    Raises:
        RunError: W&B refuses it or cannot be reached.
    """
    from tvr_lightning.run.wandb_account import wandb_has_key, wandb_project

    if os.environ.get("WANDB_MODE", "online") != "online" or not wandb_has_key():
        return "W&B: offline or without a key, only the page was written"
    if find_spec(PACKAGE) is None:
        return "W&B: only the page was written; for a report there install tvr-lightning[reports]"
    import wandb

    project = wandb_project()
    try:
        api = wandb.Api()
        entity = os.environ.get("WANDB_ENTITY") or api.default_entity or ""
        report = build_report(comparison, entity, project)
        if project in [p.name for p in api.projects(entity)]:
            earlier = [r for r in api.reports(f"{entity}/{project}") if r.display_name == TITLE]
            report.id = earlier[0].id if earlier else ""
        return f"W&B: {report.save().url}"
    except Exception as error:  # a refusal comes in many classes, down to bare `Exception`; all mean the same here
        raise RunError(f"the page was written, the report in W&B was not: {error}") from error


def build_report(comparison: Comparison, entity: str, project: str) -> Any:
    """The report's definition: per test set the metrics side by side, curves, tables; seeds of one setting are a group.

    Ranked runs and those that stand apart never share a panel. It holds no figures: W&B fills it from the runs that
    were sent there.
    """
    reports = import_module(f"{PACKAGE}.reports.v2")

    def grid(rows: Sequence[Row], name: str) -> Any:
        # by what a test leaves in the configuration that W&B keeps of a run
        sets = json.dumps(sorted({row.group.first.test_set for row in rows}))
        marks = json.dumps(sorted({"; ".join(row.marks) for row in rows}))
        runset = reports.Runset(
            entity=entity, project=project, name=name, groupby=["config.experiment", "config.settings"],
            filters=f"Config('test_set') in {sets} and Config('marks') in {marks}",
        )  # fmt: skip
        bars = [
            reports.BarPlot(
                title=f"{column.title}, {DIRECTIONS.get(column.over, column.over)}".removesuffix(", "),
                metrics=[reports.SummaryMetric(f"test/{column.key}")],
            )
            for column in comparison.columns
            if not column.is_cost
        ]
        if any(run.content.get("hashing") for row in rows for run in row.group.runs):
            for d, title in DIRECTIONS.items():
                m_ap = reports.SummaryMetric(f"test/hash/{d}/mAP")
                bars.append(reports.ScatterPlot(title=f"mAP by bits, {title}", x=reports.Config("bits"), y=m_ap))
            bars.append(reports.MediaBrowser(media_keys=["hashing/pr_curve"]))
        lines = [reports.LinePlot(title=name, x="epoch", y=[name]) for name in CURVES]
        tables = [reports.WeavePanelSummaryTable(table_name=name, layout=reports.Layout(w=24, h=16)) for name in TABLES]
        return reports.PanelGrid(runsets=[runset], panels=[*bars, *lines, reports.RunComparer(), *tables])

    blocks: list[Any] = [reports.TableOfContents()]
    for block in comparison.blocks:
        blocks.append(reports.H1(block.title))
        if block.ranked:
            blocks.append(grid(block.ranked, block.title))
        if block.apart:
            blocks += [reports.H2("Not ranked"), reports.P("The runs' `marks` say why.")]
            blocks.append(grid(block.apart, "not ranked"))
    return reports.Report(
        entity=entity, project=project, title=TITLE, width="fluid", blocks=blocks,
        description="Written by `tvr dashboard`.",
    )  # fmt: skip
