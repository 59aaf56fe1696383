"""A rehearsal: clips of the dataset's length, a run of the real sizes, and what a full run needs by it."""

from __future__ import annotations

import warnings
from pathlib import Path

import av
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import without_weights
from tvr_lightning.run.reader import known_readers, reader_of
from tvr_lightning.run.rehearsal import Needs, needs_lines, rehearse
from tvr_lightning.synthetic.long_clips import FPS, HEIGHT, WIDTH, write_long_clips

from ..kinds import first_fast

ROOT = Path(__file__).parents[2]
SMALL = ("--data.batch_size=4", "--data.num_workers=0", "--trainer.accelerator=cpu")


@pytest.mark.slow
def test_clips_are_as_long_as_wanted_and_no_two_files_alike(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.mp4" for i in range(18)]
    write_long_clips(files, 2.0, workers=1)
    assert len({file.read_bytes() for file in files}) == 18
    for file in (files[0], files[17]):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == (WIDTH, HEIGHT)
            assert sum(1 for _ in container.decode(stream)) == 2 * FPS


@pytest.mark.parametrize("name", ["clip4clip_msrvtt", "ghan_msvd", "sptch_charades", "lean_activitynet"])
def test_only_weights_and_words_are_left_out(name: str) -> None:
    config = read_arguments(["--config", f"experiments/{name}.yaml"])[0]
    words = list(without_weights(config))
    assert any(word.endswith("from_pretrained=null") for word in words)
    small = read_arguments(["--config", f"experiments/{name}.yaml", *words])[0]
    for part in ("encoder", "video_encoder", "text_encoder"):
        if part in config["model"]["init_args"]:
            own, now = (c["model"]["init_args"][part]["init_args"] for c in (config, small))
            assert {k: v for k, v in now.items() if k != "from_pretrained"} == {
                k: v for k, v in own.items() if k != "from_pretrained"
            }


def test_the_paper_s_datasets_say_how_large_they_are() -> None:
    for name, videos in (("clip4clip_msrvtt", 9000), ("clip4clip_msvd", 1200), ("lean_charades", 7985)):
        extent = reader_of(ROOT / "experiments" / f"{name}.yaml").extent()
        assert extent["train"].videos == videos
        assert extent["test"].captions >= extent["test"].videos
    assert len(known_readers()) >= 6


def test_a_rehearsal_scales_to_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        needs = rehearse(Path("experiments/clip4clip_shapes.yaml"), SMALL, steps=2)
    about_lightning = [str(w.message) for w in seen if "LeafSpec" in str(w.message) or "eval mode" in str(w.message)]
    assert about_lightning == []
    assert (needs.batch, needs.epochs, needs.steps) == (4, 60, 60 * (1200 // 4))
    assert needs.step_s > 0
    assert 0 <= needs.waiting < 1
    assert needs.evaluation_s is not None
    assert needs.evaluation_s > 0
    assert needs.cache_bytes is not None
    frames = 2700 * 6 * 3 * 64 * 64  # bytes; features of the frozen image tower come on top
    assert frames < needs.cache_bytes < 3 * frames
    assert needs.features_s is not None
    assert needs.features_s > 0  # of the frozen image tower
    assert needs.training_h == pytest.approx(needs.steps * needs.step_s / 3600)


@pytest.mark.slow
def test_bounds_of_the_training_hold_for_what_is_told_and_not_for_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["--trainer.limit_train_batches=0", "--trainer.max_time=00:00:00:00", "--trainer.max_steps=7"]
    needs = rehearse(Path("experiments/clip4clip_shapes.yaml"), [*SMALL, *words], steps=1)
    assert needs.steps == 7
    assert needs.step_s > 0


def test_own_videos_are_told_what_is_not_known() -> None:
    lines = needs_lines(Needs("x CPU", 8, 2.0, 0.1, 5, None, None, 2048, None))
    assert sum("known once the data is here" in line for line in lines) == 3
    assert " minutes for every 1,000 pairs of an epoch; " in "".join(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    first_fast(
        [(["--steps", "0"], "at least 1"), (["--data.nope=1"], "unknown key"), (["--trainer.max_epochs=-1"], "no end")],
        2,
    ),
)
def test_wrong_calls(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "--config", "experiments/clip4clip_shapes.yaml", *words]) == 2
    assert message in capsys.readouterr().err
