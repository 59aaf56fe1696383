"""Post-processing of a whole run: its banks come from the training split, its figures stand beside the plain ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.run.switches import OF_VALIDATION

from ..kinds import first_fast
from ..small_runs import short_run

NAMES = ("dsl", "qb", "sk", "sk1")


@pytest.mark.parametrize("name", first_fast(["clip4clip_shapes", "ucofia_shapes"]))
@pytest.mark.slow
def test_a_run_reports_both_directions(
    name: str, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--model.evaluation.{x}" for x in ("dual_softmax=1", "qb_norm=0.2", "sinkhorn=1", "qb_bank=9")]
    assert main(["fit", *short_run(name, shapes_root, tmp_path, *options, "--model.evaluation.qb_videos=7")]) == 0
    folder = tmp_path / name / "a"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    shown = capsys.readouterr().out
    for mark in NAMES:
        assert f"{mark}/R@1" in shown
        assert f"{mark}/SumR" in shown
        sums = [metrics[f"test/{mark}/{direction}/RSum"] for direction in ("t2v", "v2t")]
        assert metrics[f"test/{mark}/SumR"] == pytest.approx(sum(sums))
        assert OF_VALIDATION.match(f"val/{mark}/SumR")
    # without a bank of videos no video of the training split is looked at, and the plain figures are the same
    own = ["--config", str(folder / "config.yaml"), f"--ckpt_path={folder}", f"--runs_dir={tmp_path}", "--run_id=t"]
    assert main(["test", *own, "--model.evaluation.qb_videos=0"]) == 0
    again = json.loads((folder.with_name("t") / "metrics.json").read_text())["metrics"]
    assert not [k for k in again if k.startswith(("test/qb/v2t", "test/sk/v2t", "test/sk1/v2t"))]
    assert {k: v for k, v in metrics.items() if k in again} == pytest.approx(again)
    assert not OF_VALIDATION.match("val/sk2/SumR")
