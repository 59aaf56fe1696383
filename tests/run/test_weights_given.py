"""What `--weights` and a run of a released checkpoint take, what they refuse, and in which words."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning import load_run
from tvr_lightning.commands.main import main
from tvr_lightning.errors import CheckpointError
from tvr_lightning.run.checkpoints import find_weights
from tvr_lightning.run.released import is_released, said_of_released
from tvr_lightning.run.results import read_run

from ..methods import released_cases as cases
from ..small_runs import run_arguments

CLIP_TENSOR = {"clip.x": torch.zeros(1)}
UNFIT = {
    "text": (b"hello, world and more", "it begins with 'hello, world and', which no file of torch.save does"),
    "empty": (b"", "it is empty"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), "which no file of torch.save does"),
    "code": ({**CLIP_TENSOR, "code": Path("x")}, r"it names pathlib\..*, which is neither a tensor nor a plain value"),
    "old code": ({**CLIP_TENSOR, "code": print}, "it names print, which"),
    "a list": ([torch.zeros(1)], r"holds no named tensors \(found: a list\)"),
    "numbers": ({"a": 1, "b" * 10_000: 2}, r"no named tensors \(found: keys 'a', 'bbb.{80}"),
    "nested": ({"state_dict": {"state_dict": CLIP_TENSOR}}, r"lie below \['state_dict'\]\['state_dict'\]; save them"),
    "model": ({"model": CLIP_TENSOR, "epoch": 3}, r"below \['model'\]; save them alone: torch.save\(content\['model"),
    "wrapped": ({"module.module.clip.x": torch.zeros(1)}, "have 'module.module.' in front of 'clip.'"),
    "encoder": ({"visual.proj": torch.zeros(1)}, "none of its 1 tensors is of a part 'clip': visual.proj"),
    "deep": ({"a": {"b": {"c": {"d": CLIP_TENSOR}}}}, r"\['a'\]\['b'\]\['c'\]\['d'\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_files_that_are_none(tmp_path: Path, name: str) -> None:
    """What was found is said, and what `--weights` takes; never torch's advice to load without care."""
    content, message = UNFIT[name]
    path = tmp_path / "weights.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not name.startswith("old"))
    assert not is_released(path)
    with pytest.raises(CheckpointError, match=message) as refused:
        find_weights(tmp_path, str(path))
    assert "--weights takes a run" in str(refused.value)
    assert not [word for word in ("weights_only", "mmap", "train first") if word in str(refused.value)]
    assert len(str(refused.value)) < 1000


def test_places_that_are_no_weights(tmp_path: Path) -> None:
    torch.save({"clip.x": torch.zeros(300)}, tmp_path / "whole.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "whole.bin").read_bytes()[:700])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "cut.bin": "it is cut off: an archive without its end", "pipe": "is a pipe or a device, no file",
        "folder": "is a folder, but no run's", "none": "there is no such file or run",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"{message}.*--weights takes a run"):
            find_weights(tmp_path, str(tmp_path / name))
    assert find_weights(tmp_path, str(tmp_path / "whole.bin")) == tmp_path / "whole.bin"
    torch.save({"state_dict": CLIP_TENSOR, "encoders": {}}, tmp_path / "run.ckpt")
    assert not is_released(tmp_path / "run.ckpt")
    torch.save({"module.clip.x": torch.zeros(1)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert is_released(tmp_path / "old.bin")


class TestCommands:
    """`--weights=FILE` of every command that takes it."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return cases.save(tmp_path / "pytorch_model.bin.2", cases.weights(cases.clip4clip("seqTransf")), wrapped=True)

    def arguments(self, data: Path, tmp_path: Path, *more: str) -> list[str]:
        layers = f"--model.num_layers={cases.LAYERS}"
        return run_arguments(data, tmp_path, "--data.selection=last", layers, *more)

    @pytest.mark.slow
    def test_a_test_of_it(
        self, shapes_root: Path, tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        named = f"--weights={path}"
        # what from_pretrained names does not exist: nothing is fetched or read for it
        lost = "--model.encoder.from_pretrained=/nowhere/clip.pt"
        assert main(["test", *self.arguments(shapes_root, tmp_path, "--run_id=t", named, lost)]) == 0
        said = said_of_released(path)
        line = f"weights of the released code: pytorch_model.bin.2 ({said['sha256'][:12]})"
        assert line in " ".join(capsys.readouterr().out.split())
        folder = tmp_path / "clip4clip_shapes" / "t"
        content = json.loads((folder / "metrics.json").read_text())
        assert content["trained"]["weights"] == said
        assert (content["trained"]["selection"], content["selected_by"]) == ("released", None)
        assert read_run(folder).marks == [line]
        run = load_run(folder)
        state = torch.load(path, weights_only=True)
        assert torch.equal(run.model.encoder.clip.visual.proj, state["module.clip.visual.proj"].float())  # type: ignore[union-attr]
        assert main(["test", str(folder), "--run_id=again"]) == 0
        again = json.loads((folder.with_name("again") / "metrics.json").read_text())
        assert again["metrics"] == content["metrics"]
        assert main(["test", str(folder), named, "--run_id=both"]) == 2
        self.check_settings_over_a_run(folder)
        self.check_the_file_counts(folder, content, capsys)
        path.unlink()
        assert main(["test", str(folder), "--run_id=gone"]) == 1
        assert "there is no such file or run" in capsys.readouterr().err

    def check_settings_over_a_run(self, folder: Path) -> None:
        """Settings of any part go over the configuration of a run that is named."""
        more = ("--model.evaluation.dual_softmax=1", "--model.evaluation.resamples=0", "--model.max_frames=12")
        assert main(["test", str(folder), "--run_id=over", *more]) == 0
        found = json.loads((folder.with_name("over") / "metrics.json").read_text())
        assert found["metrics"]["test/dsl/t2v/R@1"] >= 0
        assert not found["intervals"]

    def check_the_file_counts(self, folder: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """Beside a run of the experiment that has weights of its own; and the file has to be the one of then."""
        config = folder / "config.yaml"
        other = folder.with_name("trained") / "checkpoints"
        other.mkdir(parents=True)
        (other / "last.ckpt").write_bytes(b"never read")
        assert main(["test", "--config", str(config), "--run_id=counts"]) == 0
        found = json.loads((folder.with_name("counts") / "metrics.json").read_text())
        assert (found["metrics"], found["trained"]) == (content["metrics"], content["trained"])
        assert main(["predict", "--config", str(config), "--run_id=predicts"]) == 0
        predicts = folder.with_name("predicts")
        assert main(["test", "--config", str(predicts / "config.yaml"), "--run_id=counts_too"]) == 0
        path = Path(content["trained"]["weights"]["checkpoint"])
        kept = path.read_bytes()
        cases.save(path, cases.weights(cases.clip4clip("seqTransf"), seed=1), wrapped=True)
        now = said_of_released(path)["sha256"]
        capsys.readouterr()
        for words in (["test", str(folder)], ["test", "--config", str(config)], ["predict", str(folder)]):
            assert main([*words, "--run_id=changed"]) == 1
            error = capsys.readouterr().err
            assert now in error
            assert content["trained"]["weights"]["sha256"] in error
            assert not folder.with_name("changed").exists()
        with pytest.raises(CheckpointError, match=f"its sha256 is {now}"):
            load_run(folder)
        path.write_bytes(kept)
        shutil.rmtree(other.parent)

    @pytest.mark.slow
    def test_a_training_that_starts_from_it(self, shapes_root: Path, tmp_path: Path, path: Path) -> None:
        rates = ("--model.optimizer.lr=0", "--model.optimizer.encoder_lr=0", "--trainer.max_epochs=1")
        assert main(["fit", *self.arguments(shapes_root, tmp_path, "--run_id=f", f"--weights={path}", *rates)]) == 0
        folder = tmp_path / "clip4clip_shapes" / "f"
        kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        state = torch.load(path, weights_only=True)
        assert torch.equal(kept["state_dict"]["logit_scale.log"], state["module.clip.logit_scale"])
        (mark,) = read_run(folder).marks
        assert mark.startswith("starts from weights of the released code: pytorch_model.bin.2 (")
        # its configuration still names the file: the weights that it trained are what is tested
        config = str(folder / "config.yaml")
        assert main(["test", "--config", config, f"--runs_dir={tmp_path}", "--run_id=t"]) == 0
        tested = json.loads((folder.with_name("t") / "metrics.json").read_text())
        assert tested["checkpoint"].endswith("f/checkpoints/last.ckpt")
        assert tested["trained"]["weights"]["released"] == path.name
        assert main(["test", "--config", config, f"--runs_dir={tmp_path}", f"--weights={folder}"]) == 2

    def test_what_does_not_fit_leaves_no_folder(
        self, shapes_root: Path, tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = self.arguments(shapes_root, tmp_path, f"--weights={path}", "--model.similarity=meanP")
        assert main(["test", *words]) == 1
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tvr: ")]
        assert len(error) == 1
        assert "transformerClip" in error[0]
        assert not (tmp_path / "clip4clip_shapes").exists()
