"""`tvr inspect`: pictures of a trained run on the tiny dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tvr_lightning.commands.main import main
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.report.inspection import find_pair, look, matching_scores, open_run
from tvr_lightning.run.attention import draw_attention
from tvr_lightning.run.smoke import smoke_arguments

ROOT = Path(__file__).parents[2]


def train(name: str, data: Path, runs: Path, *more: str) -> Path:
    small = [a for a in smoke_arguments(ROOT / f"experiments/{name}.yaml", data, runs) if "fast_dev" not in a]
    assert main(["fit", *small, "--trainer.max_epochs=1", "--tracker=none", "--run_id=a", *more]) == 0
    return runs / name / "a"


@pytest.fixture(scope="module")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("tc_mgc_shapes", shapes_root, tmp_path_factory.mktemp("runs"))


def test_pictures_of_a_caption_and_of_a_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_run(run)
    video = opened.split.records[2].video_id
    assert main(["inspect", str(run), f"{video}#0", "--against", str(run)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.name for p in written] == [f"{video}_0-attention.png", f"{video}_0-contrasts.png"]
    for path in written:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 10  # something is drawn
    assert main(["inspect", str(run), "a red circle / that blinks"]) == 0
    assert (run / "inspect" / "a_red_circle_that_blinks-attention.png").is_file()
    assert not list((run / "inspect").glob(".*"))


def test_weights_and_scores_are_the_method_s_own(run: Path) -> None:
    opened = open_run(run)
    caption, row = find_pair(opened, opened.split.records[1].video_id)
    assert row == 1
    pair = look(opened, caption, row)
    assert len(pair.words) == int(caption.token_mask.sum()) - 2
    assert pair.weights.shape == (len(pair.words) + 1, len(pair.frames))
    torch.testing.assert_close(pair.weights.sum(1), torch.ones(len(pair.words) + 1))
    clip = opened.split.reader.read(row)
    with torch.no_grad():
        texts, videos = opened.model.encode_text(caption), opened.model.encode_video(clip)
        assert pair.total == pytest.approx(float(opened.model.score(texts, videos)))
        weights = opened.model.attention.weights(texts.words[0, 1:2], videos.frames, videos.frame_mask)
    torch.testing.assert_close(pair.weights[1], weights[0, 0, :, 0])
    assert list(pair.scores) == ["video_sentence", "video_word", "sentence_frame", "frame_word"]
    assert matching_scores(opened, 3).shape == (3, 4)
    labels = [t.get_text() for t in draw_attention(pair).axes[1].get_yticklabels()]
    assert labels == ["sentence", *pair.words]


def test_what_cannot_be_found(run: Path) -> None:
    opened = open_run(run)
    video = opened.split.records[0].video_id
    with pytest.raises(DataError, match="has no video"):
        find_pair(opened, "a circle", "video99999")
    with pytest.raises(DataError, match="no #40"):
        find_pair(opened, f"{video}#40")
    with pytest.raises(DataError, match="empty"):
        find_pair(opened, " ")


def test_runs_that_cannot_be_drawn(shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path), "a circle"]) == 1
    assert "config.yaml" in capsys.readouterr().err
    other = train("clip4clip_shapes", shapes_root, tmp_path)
    with pytest.raises(ConfigError, match="CLIP4Clip has no attention"):
        open_run(other)


def test_pieces_of_words_are_marked(run: Path) -> None:
    words = open_run(run).data.tokenizer
    assert words.words(words(["a turquoise xylqz"]).tokens[0])[:2] == ("a", "turquoise")
    assert words.words(words(["xylqz!"]).tokens[0])[0].endswith("-")
