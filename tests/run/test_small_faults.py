"""Faults that were said in the wrong place, late, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.data.word_pieces import WordPieces
from tvr_lightning.errors import CheckpointError
from tvr_lightning.run.checkpoints import find_checkpoint
from tvr_lightning.run.load import load_run
from tvr_lightning.types import TextInput, VideoInput, VideoTextBatch
from tvr_lightning.visible import say_once

from ..kinds import first_fast
from ..small_runs import EXPERIMENT, run_arguments


@pytest.fixture(scope="module")
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch, which no validation followed, under a name that asks for care."""
    runs = tmp_path_factory.mktemp("my runs")
    late = ("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=2")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=-a Ж 一 'q'", *late)]) == 0
    return runs / "clip4clip_shapes" / "-a Ж 一 'q'"


@pytest.mark.parametrize("load", ["test", "load_run"])
def test_weights_that_are_no_numbers_are_refused_wherever_they_are_loaded(
    load: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "run"
    shutil.copytree(trained, broken)
    file = broken / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["state_dict"]["temporal.positions.weight"][0, 0] = torch.nan
    torch.save(content, file)
    if load == "load_run":
        with pytest.raises(CheckpointError, match=r"not finite: temporal\.positions\.weight"):
            load_run(broken)
    else:
        assert main(["test", str(broken), f"--runs_dir={tmp_path / 'runs'}", "--tracker=none"]) == 1
        assert "not finite: temporal.positions.weight" in capsys.readouterr().err


def test_the_best_of_a_run_that_selected_none_is_said_to_be_its_last(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    for _ in range(2):
        assert find_checkpoint(trained.parent, "best").name == "last.ckpt"
    assert capsys.readouterr().err.count("nothing selected one: its last weights are taken") == 1


def test_the_folder_of_a_test_names_the_weights_that_it_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "tested"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("ckpt_path: runs/x/a/checkpoints/best.ckpt\n")
    with pytest.raises(CheckpointError, match=r"only evaluated the weights runs/x/a/checkpoints/best\.ckpt"):
        find_checkpoint(tmp_path / "x", str(folder))


def test_checkpoints_that_are_not_named_are_counted(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match="and 2 more"):
        find_checkpoint(tmp_path, str(tmp_path / "z"))


def test_predict_of_a_run_says_nothing_strange(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert main(["predict", str(trained), f"--runs_dir={tmp_path}", "--run_id=p", "--tracker=none"]) == 0
    assert (tmp_path / "clip4clip_shapes" / "p" / "predictions.parquet").is_file()
    assert "returned None" not in capsys.readouterr().err + "".join(str(w.message) for w in recwarn)


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_query_is_not_blamed_on_annotations(
    query: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(trained), query]) == 2
    error = capsys.readouterr().err
    assert "the query is empty" in error
    assert "annotations" not in error


@pytest.mark.parametrize("query", first_fast(["كلب", "😀", "一只 狗", "-x 'y'"]))
def test_queries_of_any_script_are_drawn(query: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained), query]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["run", "--0sXY"], "-- --0sXY"), (["none", "query", "--against", "nowhere"], "none is not a run")],
)
def test_inspect_says_what_is_wrong_with_its_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *words]) != 0
    assert said in capsys.readouterr().err


def test_runs_beside_another_are_looked_for_first(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained), "query", "--against", "nowhere"]) == 1
    assert "nowhere is not a run" in capsys.readouterr().err


def test_an_abbreviated_setting_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    config, _ = read_arguments(["--config", str(EXPERIMENT), "--trainer.max_ep=3"])
    assert config["trainer"]["max_epochs"] == 3
    assert "--trainer.max_ep is taken as --trainer.max_epochs" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["compare", "--base=x"], ["smoke", "--tru"], ["data", "shapes", "--num=3"]])
def test_options_of_other_commands_are_spelt_out(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)


def test_unknown_words_are_spelt_as_the_caption_has_them() -> None:
    tokenizer = WordPieces(context_length=6)
    tokenizer.learn(["a man cooks", "a man runs"])
    caption = "a man Ж cooks and more words"
    tokens = tokenizer([caption]).tokens[0]
    assert "[UNK]" in tokenizer.words(tokens)
    assert tokenizer.spell(caption, tokens)[:3] == ("a", "man", "Ж")


def test_a_batch_has_second_views_of_all_pairs_or_of_none() -> None:
    text = TextInput(torch.ones(1, 3).long(), torch.ones(1, 3).bool(), torch.zeros(1).long(), torch.zeros(1).long())
    video = VideoInput(torch.zeros(1, 2, 3, 4, 4).byte(), torch.ones(1, 2).bool(), torch.zeros(1).long())
    plain = VideoTextBatch(text, video)
    both = VideoTextBatch(text, video, plain)
    assert VideoTextBatch.of_rows([both, both]).augmented is not None
    assert VideoTextBatch.of_rows([plain, plain]).augmented is None
    with pytest.raises(ValueError, match="1 of 2 pairs have a second view"):
        VideoTextBatch.of_rows([plain, both])
