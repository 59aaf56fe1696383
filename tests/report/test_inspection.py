"""`tvr inspect`: pictures of trained runs on the tiny dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tvr_lightning.commands.main import main
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.methods.views import Maps, Parts, View
from tvr_lightning.report import distributions
from tvr_lightning.report.inspection import find_pair, inspect_run, matching_pairs, open_run, series_of, vectors_of
from tvr_lightning.run.smoke import smoke_arguments

from ..kinds import first_fast

ROOT = Path(__file__).parents[2]


def train(name: str, data: Path, runs: Path, *more: str) -> Path:
    small = [a for a in smoke_arguments(ROOT / f"experiments/{name}.yaml", data, runs) if "fast_dev" not in a]
    assert main(["fit", *small, "--trainer.max_epochs=1", "--tracker=none", "--run_id=a", *more]) == 0
    return runs / name / "a"


@pytest.fixture(scope="module")
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    runs = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}

    def run_of(name: str) -> Path:
        if name not in made:
            made[name] = train(name, shapes_root, runs)
        return made[name]

    return run_of


@pytest.fixture
def run(trained: Callable[[str], Path]) -> Path:
    return trained("tc_mgc_shapes")


def view_of(views: tuple[View, ...], name: str) -> View:
    return next(view for view in views if view.name == name)


def test_pictures_of_a_caption_and_of_a_text(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "TSNE", "no_such_package")
    opened = open_run(run)
    video = opened.split.records[2].video_id
    assert main(["inspect", str(run), f"{video}#0", "--against", str(run)]) == 0
    output = capsys.readouterr()
    written = [Path(line) for line in output.out.splitlines()]
    assert [p.name for p in written] == [f"{video}_0-{name}.png" for name in ("attention", "contrasts", "aggregation")]
    for path in written:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 10  # something is drawn
    assert "tvr: no picture of features: t-SNE needs scikit-learn, which is not installed: uv pip install" in output.err
    drawn = inspect_run(run, "círculo/красный9", video)
    assert drawn.paths[0].name == f"círculo_красный9-{video}-attention.png"
    assert drawn.notes[0].endswith("called 'círculo/красный9': it is taken as a text")
    assert not list((run / "inspect").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "picture", "panels"),
    first_fast(
        [
            ("lean_shapes", "weights", ["nodes over hyperedges", "nodes over hyperedges", "readout"]),
            ("ghan_shapes", "weights", ["frame-clip", "word-phrase", "text-clip", "video-phrase"]),
            ("clip4clip_shapes", "similarity", ["caption and frame"]),
            ("mean_pool_shapes", "similarity", ["caption and frame"]),
        ]
    ),
)
def test_pictures_of_other_methods(
    name: str, picture: str, panels: list[str], trained: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained(name)
    opened = open_run(path)
    capsys.readouterr()
    pair = opened.see(find_pair(opened, opened.split.records[1].video_id))
    (maps,) = pair.views
    assert isinstance(maps, Maps)
    assert [next((p for p in panels if panel.title.startswith(p)), "") for panel in maps.panels] == panels
    spelt = [[pair.spell(x) for x in (*panel.rows, *panel.columns)] for panel in maps.panels]
    assert all("[" not in label for labels in spelt for label in labels)  # no special token
    drawn = inspect_run(path, opened.split.records[1].video_id)
    assert [p.name for p in drawn.paths] == [f"{opened.split.records[1].video_id}-{picture}.png"]
    assert not drawn.notes
    with pytest.raises(ConfigError, match="leave --against out"):
        inspect_run(path, "red", against=[path])


def test_weights_and_scores_are_the_method_s_own(run: Path) -> None:
    opened = open_run(run)
    query = find_pair(opened, opened.split.records[1].video_id)
    assert query.video == 1
    pair = opened.see(query)
    assert pair.caption == opened.split.records[1].captions[0]
    assert len(pair.words) == int(query.tokens.token_mask.sum()) - 2
    attention = view_of(pair.views, "attention")
    assert isinstance(attention, Maps)
    values = attention.panels[0].values
    assert values.shape == (len(pair.words) + 1, len(pair.frames))
    torch.testing.assert_close(values.sum(1), torch.ones(len(pair.words) + 1))
    clip = opened.split.reader.read(1)
    assert clip is not None
    with torch.no_grad():
        texts, videos = opened.model.encode_text(query.tokens), opened.model.encode_video(clip)
        assert pair.score == pytest.approx(float(opened.model.score(texts, videos)))
        weights = opened.model.attention.weights(texts.words[0, 1:2], videos.frames, videos.frame_mask)
    torch.testing.assert_close(values[1], weights[0, 0, :, 0])
    contrasts, aggregation = (view_of(pair.views, name) for name in ("contrasts", "aggregation"))
    assert isinstance(contrasts, Parts)
    assert isinstance(aggregation, Parts)
    assert contrasts.names == ("video-sentence", "video-word", "sentence-frame", "frame-word")
    weighed = aggregation.series["linear softmax"] @ contrasts.series["score"]
    assert float(weighed) == pytest.approx(pair.score, rel=1e-5)


def test_distributions_are_of_matching_pairs(run: Path) -> None:
    opened = open_run(run)
    pairs = matching_pairs(opened, 3)
    assert len({pair.video_id for pair in pairs}) == 3
    contrasts = view_of(pairs[0].views, "contrasts")
    assert isinstance(contrasts, Parts)
    assert series_of("run", pairs, contrasts)["score"].shape == (3, 4)
    other = Parts("contrasts", "", ("video-sentence",), {"score": torch.zeros(1)})
    with pytest.raises(ConfigError, match="which cannot be compared with those of video-sentence"):
        series_of("run", pairs, other)
    vectors = vectors_of(pairs, "features")
    assert {name: len(some) for name, some in vectors.items()} == {"words": 3, "frames": 3}


@pytest.mark.slow
def test_words_and_frames_by_t_sne(run: Path) -> None:
    pytest.importorskip(distributions.TSNE, reason="scikit-learn is not installed")
    opened = open_run(run)
    vectors = vectors_of(matching_pairs(opened, 3), "features")
    figure = distributions.draw_clouds("run", vectors)
    words, frames = figure.axes
    count = sum(map(len, vectors["words"]))
    assert words.get_title() == f"words: {count} vectors of 3 matching pairs"
    assert sum(len(c.get_offsets()) for c in words.collections) == count
    assert len(frames.collections) == 3


def test_what_cannot_be_found(run: Path) -> None:
    opened = open_run(run)
    video = opened.split.records[0].video_id
    with pytest.raises(DataError, match="has no video"):
        find_pair(opened, "a circle", "video99999")
    with pytest.raises(DataError, match="no #40"):
        find_pair(opened, f"{video}#40")
    with pytest.raises(ConfigError, match="empty"):
        find_pair(opened, " ")


@pytest.mark.slow
def test_runs_that_cannot_be_drawn(
    shapes_root: Path, tmp_path: Path, run: Path, trained: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path), "a circle"]) == 1
    assert "config.yaml" in capsys.readouterr().err
    other = train("ghan_shapes", shapes_root, tmp_path, "--model.layers=baseline")
    with pytest.raises(ConfigError, match="GHAN, as this run has it, has nothing to show for a pair"):
        inspect_run(other, "a circle")
    with pytest.raises(ConfigError, match="its method is CLIP4Clip, that of tc_mgc_shapes/a is TCMGC"):
        inspect_run(run, "a circle", against=[trained("clip4clip_shapes")])


def test_pieces_of_words_are_marked(run: Path) -> None:
    words = open_run(run).data.tokenizer
    assert words.words(words(["a turquoise xylqz"]).tokens[0])[:2] == ("a", "turquoise")
    assert words.words(words(["xylqz!"]).tokens[0])[0].endswith("-")
