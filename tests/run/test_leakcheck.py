"""The leak check, and the names of what leaks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_lightning.commands.main import main
from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.errors import ConfigError, ScoreError
from tvr_lightning.evaluation import EncodedSplit, Evaluation, encode_texts, encode_videos, evaluate
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.optim import Optimizer
from tvr_lightning.report.comparison import compare
from tvr_lightning.run import leakcheck, load
from tvr_lightning.run.curves import read_curves
from tvr_lightning.run.leakcheck import Finding, LeakReport, binomial_tail, check_leak
from tvr_lightning.run.load import Experiment
from tvr_lightning.run.results import find_runs, result_table
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.synthetic.noise import VOCABULARY, LeakProbe, NoiseData, NoiseEncoder, NoiseTokenizer
from tvr_lightning.types import SentenceFeatures, TextInput, VideoInput

from ..kinds import few_fast

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
SMALL = LeakProbe(steps=60, pairs=32, videos=40, texts=60, lr=1e-2)


class Toy(RetrievalModule[SentenceFeatures, SentenceFeatures]):
    """Mean features through a linear layer each, and their inner product."""

    def __init__(self, encoder: CLIPEncoder) -> None:
        super().__init__(Optimizer(), Evaluation())
        self.encoder = encoder
        self.of_text, self.of_video = (nn.Linear(encoder.embed_dim, 64) for _ in range(2))

    def encode_video(self, video: VideoInput) -> SentenceFeatures:
        frames = self.encoder.encode_frames(video.frames, video.frame_mask)
        return SentenceFeatures(self.of_video(masked_mean(frames, video.frame_mask)))

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        return SentenceFeatures(self.of_text(self.encoder.encode_text(text.tokens, text.token_mask)[0]))

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return texts.sentence @ videos.sentence.T

    def compute_losses(
        self, texts: SentenceFeatures, videos: SentenceFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}


class Parameterless(Toy):
    """Compares mean features as they are."""

    def __init__(self, encoder: CLIPEncoder) -> None:
        super().__init__(encoder)
        self.of_text, self.of_video = nn.Identity(), nn.Identity()


class ParameterlessByPlace(Parameterless):
    """Prefers the video whose place in the list is the text's."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return super().score(texts, videos) + 100 * torch.eye(len(texts), len(videos))


class ByPlace(Toy):
    """Prefers the video whose place in the list is the text's."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return super().score(texts, videos) + 100 * torch.eye(len(texts), len(videos))


class Slightly(Toy):
    """Knows some answers."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        place = torch.eye(len(texts), len(videos))
        return super().score(texts, videos) + 100 * place * (torch.arange(len(texts)) % 2 == 0)[:, None]


class Equal(Toy):
    """Needs as many texts as videos."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return (texts.sentence * videos.sentence).sum(-1) + super().score(texts, videos)


class Transposed(Toy):
    """Gives videos in rows."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return super().score(texts, videos).T


class Constant(Toy):
    """Has collapsed."""

    def score(self, texts: SentenceFeatures, videos: SentenceFeatures) -> Tensor:
        return 0.0 * super().score(texts, videos)


class Told(Toy):
    """Adds each text's own video to it."""

    @property
    def reads_ground_truth(self) -> bool:
        return True

    def match(
        self, texts: SentenceFeatures, videos: SentenceFeatures, caption_video: Tensor
    ) -> tuple[SentenceFeatures, SentenceFeatures]:
        assert not self.training
        return SentenceFeatures(texts.sentence + 100 * videos.sentence[caption_video]), videos


def small_clip() -> CLIPEncoder:
    from tvr_lightning.encoders.clip import CLIPSize

    size = CLIPSize(
        image_size=32, patch_size=16, image_width=32, image_layers=1, image_heads=2,
        text_width=32, text_layers=1, text_heads=2, embed_dim=32,
    )  # fmt: skip
    return CLIPEncoder(size=size, context_length=8)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LeakReport]:
    """Checks a toy method instead of the experiment's."""

    def run(method: type[Toy], probe: LeakProbe = SMALL) -> LeakReport:
        def build(config: Mapping[str, Any]) -> Experiment:
            data: Any = SimpleNamespace(augment=None)
            return Experiment("toy", method(small_clip()), data, {}, {})

        monkeypatch.setattr(load, "build", build)
        return check_leak(["--config", str(EXPERIMENTS / "clip4clip_shapes.yaml")], probe)

    return run


def test_an_honest_method_passes_although_it_learned_by_heart(check: Callable[..., LeakReport]) -> None:
    report = check(Toy)
    assert not report.leaks
    assert report.trained.percent > 90
    assert [f.name for f in report.findings] == ["t2v/R@1", "t2v/R@10", "v2t/R@1", "v2t/R@10"]
    assert [f.queries for f in report.findings] == [60, 60, 40, 40]
    assert [f.chance for f in report.findings] == [1 / 40, 10 / 40, 1 / 40, 10 / 40]
    assert "no leak found" in report.text()
    assert "nothing was learned" not in report.text()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(check: Callable[..., LeakReport]) -> None:
    report = check(Toy)
    assert check(Toy) == report
    assert check(Toy, replace(SMALL, seed=1)) != report


@pytest.mark.parametrize("method", [ByPlace, Slightly, Told])
def test_leaks_are_found(check: Callable[..., LeakReport], method: type[Toy]) -> None:
    report = check(method, replace(SMALL, steps=4))
    assert report.leaks
    assert report.findings[0].percent > 15
    assert ("scores read the ground truth" in report.text()) == (method is Told)
    assert "toy: LEAK" in report.text()


@pytest.mark.parametrize(("method", "message"), [(Equal, "must match"), (Transposed, "have the shape")])
def test_scores_of_other_numbers_must_work(check: Callable[..., LeakReport], method: type[Toy], message: str) -> None:
    with pytest.raises(
        ScoreError, match=rf"{method.__name__} cannot score other numbers of texts than of videos: .*{message}"
    ):
        check(method, replace(SMALL, steps=2))


def test_a_collapsed_method_is_not_called_clean_without_a_word(check: Callable[..., LeakReport]) -> None:
    report = check(Constant, replace(SMALL, steps=2))
    assert not report.leaks
    for finding in report.findings:
        assert finding.percent == pytest.approx(100 * finding.chance)
    assert "nothing was learned" in report.text()


def test_a_method_with_nothing_to_train_is_tested_as_it_is(check: Callable[..., LeakReport]) -> None:
    report = check(Parameterless)
    assert not report.leaks
    assert "no trainable parameters besides its encoders'" in report.text()
    assert "Try another --lr" not in report.text()
    assert check(ParameterlessByPlace).leaks


# one experiment of each method, on the embedded dataset
METHODS = {
    p.stem: sorted(EXPERIMENTS.glob(f"{p.stem}_shapes*.yaml"))[:1] for p in (EXPERIMENTS / "method").glob("*.yaml")
}


@pytest.mark.parametrize("method", few_fast(sorted(METHODS)))
def test_every_method_can_be_checked(method: str) -> None:
    if not METHODS[method]:
        pytest.skip(f"{method} has no experiment on the embedded dataset")
    report = check_leak(["--config", str(METHODS[method][0])], LeakProbe(steps=4, pairs=16, videos=20, texts=30))
    assert not report.leaks
    assert not report.reads_ground_truth


def test_weights_and_vocabularies_are_not_needed() -> None:
    config = leakcheck.probe_arguments(["--config", str(EXPERIMENTS / "tc_mgc_msrvtt.yaml")], SMALL)
    encoder = config["model"]["init_args"]["encoder"]["init_args"]
    assert (encoder["model"], encoder["from_pretrained"]) == ("tiny", None)
    assert config["data"]["tokenizer"] is None
    assert config["data"]["max_words"] == SMALL.max_words


def test_binomial_tail_equals_the_slow_sum() -> None:
    for trials, chance in ((1, 0.3), (10, 0.01), (60, 0.25), (150, 0.01)):
        for hits in range(trials + 2):
            slow = sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(hits, trials + 1))
            assert binomial_tail(hits, trials, chance) == pytest.approx(min(slow, 1.0), rel=1e-9, abs=1e-300)
    assert binomial_tail(3, 5, 1.0) == 1.0
    assert binomial_tail(0, 5, 0.0) == 1.0
    assert binomial_tail(1, 5, 0.0) == 0.0


def test_findings() -> None:
    finding = Finding("t2v/R@1", 100, 10, 0.05)
    assert finding.percent == 10
    low, high = finding.interval
    assert (low, high) == (pytest.approx(5.52, abs=0.01), pytest.approx(17.44, abs=0.01))  # Wilson's, from a table
    assert Finding("x", 100, 0, 0.01).interval[0] == 0
    assert Finding("x", 100, 100, 0.01).interval[1] == pytest.approx(100)
    assert Finding("x", 100, 4.5, 0.05).p_value == binomial_tail(5, 100, 0.05)  # ties: rounded against chance
    report = LeakReport("x", (Finding("x", 100, 5, 0.01),) * 4, finding, False)
    assert binomial_tail(5, 100, 0.01) > 1e-3
    assert not report.leaks
    assert LeakReport("x", (Finding("x", 100, 8, 0.01),) * 4, finding, False).leaks


def test_noise_is_fresh_repeatable_and_of_the_right_kind() -> None:
    def batches(seed: int) -> tuple[NoiseData, TextInput, VideoInput]:
        data = NoiseData(replace(SMALL, seed=seed), None)
        data.setup("fit")
        split = data.splits["test"]
        captions, clips = data.evaluation_loaders(split)
        return data, TextInput.cat(list(captions)), VideoInput.cat([v for v in clips if v is not None])

    data, texts, videos = batches(0)
    assert (len(texts), len(videos)) == (60, 40)
    assert data.splits["test"].caption_video.tolist() == [*range(20), *(v for v in range(20, 40) for _ in range(2))]
    assert videos.frames.dtype == torch.uint8
    assert not videos.frames[~videos.frame_mask].any()
    assert videos.frame_mask.any(1).all()
    assert texts.tokens.max() == VOCABULARY - 1
    assert (texts.tokens.argmax(1) == texts.token_mask.sum(1) - 1).all()  # the end token is the largest
    assert ((texts.word >= 0).sum(1) == texts.token_mask.sum(1) - 2).all()
    again = batches(0)
    assert torch.equal(again[1].tokens, texts.tokens)
    assert torch.equal(again[2].frames, videos.frames)
    assert not torch.equal(batches(1)[2].frames, videos.frames)
    train = VideoInput.cat([v for v in data.evaluation_loaders(data.splits["train"])[1] if v is not None])
    assert len(train) == SMALL.pairs
    pixels = torch.cat([train.frames[:, 0], videos.frames[:, 0]]).flatten(1).unique(dim=0)
    assert len(pixels) == len(train) + len(videos)
    assert len(NoiseTokenizer(8).words(texts.tokens[0])) == int(texts.token_mask[0].sum()) - 2


def test_noise_features_are_independent_and_masked() -> None:
    encoder = NoiseEncoder(small_clip(), 0)
    data = NoiseData(replace(SMALL, videos=300, texts=400), None)
    data.setup("fit")
    captions, clips = data.evaluation_loaders(data.splits["test"])
    texts, videos = TextInput.cat(list(captions)), VideoInput.cat([v for v in clips if v is not None])
    frames = encoder.encode_frames(videos.frames, videos.frame_mask)
    sentences, words = encoder.encode_text(texts.tokens, texts.token_mask)
    assert not frames[~videos.frame_mask].any()
    assert not words[~texts.token_mask].any()
    for features in (frames[videos.frame_mask], words[texts.word >= 0], sentences):
        assert features.mean().abs() < 0.1
        assert features.std() == pytest.approx(1.0, abs=0.1)
    first = data.splits["test"].caption_video
    correlation = torch.corrcoef(torch.stack([sentences.flatten(), frames[first, 0].flatten()]))[0, 1]
    assert correlation.abs() < 0.04
    assert not list(encoder.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"texts": 100}, "100 texts for 100 videos"),
        ({"texts": 201}, "201 texts for 100 videos"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"batch_size": 300}, "batch_size is 300"),
        ({"max_words": 3}, "max_words is 3"),
    ],
)
def test_sizes_out_of_range_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LeakProbe(**wrong)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def fake(words: Sequence[str], probe: LeakProbe) -> LeakReport:
        asked.append((list(words), probe))
        hits = 50 if "--model.pairing=matched" in words else 0
        return LeakReport("x", (Finding("t2v/R@1", 100, hits, 0.01),), Finding("trained", 10, 10, 0.1), False)

    monkeypatch.setattr(leakcheck, "check_leak", fake)
    experiment = str(EXPERIMENTS / "ghan_shapes.yaml")
    command = ["leakcheck", "--config", experiment, "--steps=7", "--lr", "0.1"]
    assert main(command) == 0
    assert "no leak found" in capsys.readouterr().out
    assert main([*command, "--model.pairing=matched"]) == 1
    assert "x: LEAK" in capsys.readouterr().out
    assert asked[1] == (["--config", experiment, "--model.pairing=matched"], LeakProbe(steps=7, lr=0.1))


def test_wrong_calls(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["leakcheck"])
    assert main(["leakcheck", "--config", str(EXPERIMENTS / "nope.yaml")]) == 2
    assert "no experiment file" in capsys.readouterr().err
    shapes = str(EXPERIMENTS / "clip4clip_shapes.yaml")
    assert main(["leakcheck", "--config", shapes, "--texts=5"]) == 2
    assert "5 texts for 100 videos" in capsys.readouterr().err


def test_figures_of_a_leak_are_named_so() -> None:
    data = NoiseData(replace(SMALL, videos=20, texts=30), None)
    data.setup("test")
    split = data.splits["test"]
    captions, clips = data.evaluation_loaders(split)
    found = {}
    for method in (Toy, Told):
        torch.manual_seed(0)
        model = method(small_clip()).train()
        leakcheck.replace_encoders(model, 0)
        features = encode_texts(model, captions), encode_videos(model, clips)
        encoded = EncodedSplit(*features, split.caption_video, probes=[("order", 0, 1)])
        found[method] = evaluate(model, encoded, Evaluation(resamples=50, dual_softmax=1.0))
        assert model.training
    told, plain = found[Told], found[Toy]
    assert set(told.metrics) == {f"leaky/{name}" for name in plain.metrics}
    assert set(told.intervals) == {f"leaky/{name}" for name in plain.intervals}
    assert {"leaky/t2v/R@1", "leaky/SumR", "leaky/dsl/SumR", "leaky/probe/order"} <= told.metrics.keys()
    assert told.metrics["leaky/t2v/R@1"] > 90
    assert Toy(small_clip()).monitor == "val/SumR"
    assert Told(small_clip()).monitor == "val/leaky/SumR"


def test_a_leaking_run_is_named_so_in_all_it_leaves(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = EXPERIMENTS / "ghan_shapes.yaml"
    small = [a for a in smoke_arguments(experiment, shapes_root, tmp_path) if "fast_dev_run" not in a]
    settings = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--tracker=csv", "--run_id=leak"]
    with pytest.warns(UserWarning, match="The scores contain the answer"):
        assert main(["fit", *small, *settings, "--model.init_args.pairing=matched"]) == 0
    printed = capsys.readouterr().out
    assert "leaky/R@1" in printed
    assert "scores read the ground truth" in printed
    folder = tmp_path / "ghan_shapes" / "leak"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]
    assert all(name.startswith("test/leaky/") for name in (*content["metrics"], *content["intervals"]))
    assert "test/leaky/SumR" in content["intervals"]
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert content["checkpoint"].endswith("best.ckpt")  # chosen by val/leaky/SumR
    (row,) = read_curves(folder / "curves.csv")
    assert "val/leaky/SumR" in row
    assert not [name for name in row if name.startswith("val/") and not name.startswith("val/leaky/")]
    logged = "".join(p.read_text() for p in folder.rglob("metrics.csv"))
    assert "test/leaky/t2v/R@1" in logged
    assert "test/t2v" not in logged
    (run,) = find_runs([folder])
    assert run.leaky
    assert run.marks == ["leaky"]
    low, high = content["intervals"]["test/leaky/t2v/R@1"]
    table = result_table(content)
    shown = [str(cell) for column in table.columns for cell in column.cells]
    assert any(f"[{low:.1f}, {high:.1f}]" in cell for cell in shown)
    (block,) = compare([run]).blocks
    assert not block.ranked
    assert block.apart[0].notes[0] == "leaky"
    assert block.apart[0].group.interval("t2v/R@1") == (low, high)
