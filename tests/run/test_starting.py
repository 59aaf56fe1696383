"""New runs that start from another run: with all of its state, or with its weights alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.run.results import read_run

from ..kinds import first_fast
from ..small_runs import run_arguments


@pytest.fixture(scope="module")
def source(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    runs = tmp_path_factory.mktemp("source")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=a", "--data.selection=last")]) == 0
    return runs / "clip4clip_shapes" / "a"


@pytest.fixture
def fit(shapes_root: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*more: str) -> int:
        return main(["fit", *run_arguments(shapes_root, tmp_path, "--data.selection=last", "--run_id=b", *more)])

    return run


def content_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


class TestCheckpoint:
    """`--ckpt_path` goes on, or says that there is nothing to go on with."""

    def test_epochs_that_are_done_are_refused_with_both_ways_out(
        self, fit: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit(f"--ckpt_path={source}") == 2
        error = capsys.readouterr().err
        assert "has trained 2 epochs already, and trainer.max_epochs=2 counts them: nothing would be trained" in error
        assert "--trainer.max_epochs=MORE" in error
        assert "--weights=" in error
        assert not (tmp_path / "clip4clip_shapes").exists()
        assert fit(f"--ckpt_path={source}", "--trainer.max_epochs=4", "--trainer.max_steps=6") == 2
        assert "has trained 6 steps already" in capsys.readouterr().err
        assert fit(f"--ckpt_path={source}", "--trainer.max_epochs=3") == 0
        assert content_of(tmp_path / "clip4clip_shapes" / "b")["global_step"] == 9

    @pytest.mark.slow
    def test_one_that_does_not_say_how_far_it_came(
        self, fit: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bare = {k: v for k, v in content_of(source).items() if k != "loops"}
        torch.save(bare, tmp_path / "bare.ckpt")
        assert fit(f"--ckpt_path={tmp_path / 'bare.ckpt'}", "--trainer.max_epochs=3") == 1
        assert "does not say how far its training came" in capsys.readouterr().err
        assert fit(f"--weights={tmp_path / 'bare.ckpt'}") == 0


@pytest.mark.parametrize("more", ["--trainer.max_steps=0", "--trainer.limit_train_batches=0"])
def test_a_fit_without_a_step_reports_nothing(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    assert fit(more) == 2
    assert more.removeprefix("--").partition("=")[0] + " is 0" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.json"))


class TestWeights:
    """`--weights` takes weights, and nothing else."""

    def test_training_starts_anew_and_says_from_what(
        self, fit: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit(f"--weights={source}", "--trainer.max_epochs=1", "--model.optimizer.lr=0",
                   "--model.optimizer.encoder_lr=0") == 0  # fmt: skip
        run = tmp_path / "clip4clip_shapes" / "b"
        begun, end = content_of(source), content_of(run)
        assert all(torch.equal(x, end["state_dict"][name]) for name, x in begun["state_dict"].items())
        assert end["global_step"] == 3
        assert {int(s["step"]) for s in end["optimizer_states"][0]["state"].values()} == {3}
        path = str(source / "checkpoints" / "last.ckpt")
        assert yaml.safe_load((run / "config.yaml").read_text())["weights"] == path
        said = json.loads((run / "metrics.json").read_text())["trained"]["weights"]
        assert said["checkpoint"] == path
        assert (said["dataset"], said["steps"], said["seed"]) == ("shapes", 6, 0)
        assert read_run(run).marks == [f"starts from weights of shapes {said['protocol']}"]
        assert main(["test", str(run), f"--runs_dir={tmp_path}", "--run_id=t"]) == 0
        assert json.loads((run.parent / "t" / "metrics.json").read_text())["trained"]["weights"] == said
        words = ["test", "--config", str(run / "config.yaml"), "--weights=x", f"--ckpt_path={run}"]
        assert main(words) == 2
        assert "leave one out" in capsys.readouterr().err
        assert main([*words[:3], f"--weights={run}"]) == 2
        assert "starts a new training" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("change", "code", "message"),
        first_fast(
            [
                (["--weights={run}", "--ckpt_path={run}"], 2, "leave one out"),
                (["--weights={tmp}/none"], 1, "there is no such file or run"),
                (["--weights={tmp}/text.ckpt"], 1, "it begins with 'hello', which no file of torch.save does"),
                (["--weights={tmp}/foreign.ckpt"], 1, "tensors is of a part 'clip': "),
                (["--weights={tmp}/nobody.ckpt"], 1, "was not saved by a run of this suite"),
                (["--weights={tmp}/code.ckpt"], 1, "it names pathlib."),
                (["--weights={tmp}/broken.ckpt"], 1, "holds values that are not finite: "),
                (["--weights={tmp}/fp8.ckpt"], 1, "proj: found torch.float8_e4m3fn; weights are read in 16 bits"),
                (["--weights={tmp}/listed.ckpt"], 1, "was not saved by a run of this suite"),
                (["--weights={run}", "--model.similarity=tightTransf"], 1, "does not fit CLIP4Clip: cross"),
                (["--weights={run}", "--model.num_layers=1"], 1, "not part of the model"),
                (["--weights={run}", "--model.encoder.image_size=48"], 1, "the checkpoint holds CLIPEncoder("),
            ],
            4,
        ),
    )
    def test_what_does_not_fit_is_named_in_one_line(
        self, fit: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        change: list[str], code: int, message: str,
    ) -> None:  # fmt: skip
        content = content_of(source)
        (tmp_path / "text.ckpt").write_text("hello")
        torch.save({"state_dict": content["state_dict"]}, tmp_path / "foreign.ckpt")
        torch.save({k: v for k, v in content.items() if k != "trained"}, tmp_path / "nobody.ckpt")
        torch.save({**content, "extra": Path}, tmp_path / "code.ckpt")
        weights = content["state_dict"]
        torch.save({**content, "state_dict": list(weights)}, tmp_path / "listed.ckpt")
        small = {n: x.to(torch.float8_e4m3fn) if n == "encoder.clip.visual.proj" else x for n, x in weights.items()}
        torch.save({**content, "state_dict": small}, tmp_path / "fp8.ckpt")
        broken = {name: x * torch.nan if name == "encoder.clip.visual.proj" else x for name, x in weights.items()}
        torch.save({**content, "state_dict": broken}, tmp_path / "broken.ckpt")
        assert fit(*(c.format(run=source, tmp=tmp_path) for c in change)) == code
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tvr: ")]
        assert len(error) == 1
        assert message in error[0]
        assert not (tmp_path / "clip4clip_shapes").exists()
