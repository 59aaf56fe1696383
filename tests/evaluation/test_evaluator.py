from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tvr_lightning.errors import ConfigError, DataError, ScoreError
from tvr_lightning.evaluation import (
    Bank,
    EncodedSplit,
    Evaluation,
    TrainingItems,
    encode_texts,
    encode_videos,
    encoding,
    evaluate,
    score_all,
    scored_items,
    scoring,
)
from tvr_lightning.evaluation.encoding import ItemIndex, inference, join_batches
from tvr_lightning.evaluation.postprocessing import PartOf
from tvr_lightning.metrics import ranking_metrics, sinkhorn_biases
from tvr_lightning.types import TensorRows, TextInput, VideoInput


@dataclass(frozen=True)
class Vectors(TensorRows):
    vector: Tensor


class Dot:
    """A method that multiplies; counts how large its score calls are."""

    def __init__(self) -> None:
        self.training = True
        self.device = torch.device("cpu")
        self.largest = 0
        self.modes: list[bool] = []

    def train(self, mode: bool = True) -> Dot:
        self.training = mode
        return self

    def encode_text(self, text: TextInput) -> Vectors:
        self.modes.append(self.training)
        return Vectors(text.tokens.to(torch.bfloat16))

    def encode_video(self, video: VideoInput) -> Vectors:
        self.modes.append(self.training)
        return Vectors(video.frames.float().mean((1, 3, 4)))

    def score(self, texts: Vectors, videos: Vectors) -> Tensor:
        self.modes.append(self.training)
        self.largest = max(self.largest, len(texts) * len(videos))
        return texts.vector @ videos.vector.T


def vectors(count: int, seed: int) -> Vectors:
    return Vectors(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)))


def test_encoding_keeps_order_comes_in_float32_and_restores_the_mode() -> None:
    model = Dot()
    index = torch.arange(5)
    text = TextInput(torch.arange(15).view(5, 3), torch.ones(5, 3, dtype=torch.bool), index, index)
    video = VideoInput(torch.ones(5, 2, 3, 4, 4, dtype=torch.uint8), torch.ones(5, 2, dtype=torch.bool), index)
    texts = encode_texts(model, [text[:2], text[2:]])
    assert torch.equal(texts.vector, torch.arange(15.0).view(5, 3))
    videos = encode_videos(model, [video[:4], None, video[4:]])
    assert len(videos) == 5
    assert model.training
    assert not any(model.modes)


def test_nothing_to_encode_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to encode"):
        encode_videos(Dot(), [None])


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_bound_the_work_and_change_nothing(chunk: int) -> None:
    model, texts, videos = Dot(), vectors(9, 0), vectors(7, 1)
    scores = score_all(model, texts, videos, chunk_size=chunk)
    torch.testing.assert_close(scores, texts.vector @ videos.vector.T)
    assert model.largest <= chunk * chunk


def test_a_large_matrix_lives_in_a_file_and_gives_the_same_metrics() -> None:
    model, texts, videos = Dot(), vectors(40, 0), vectors(30, 1)
    owner = torch.arange(40) % 30
    mapped = score_all(model, texts, videos, chunk_size=16, matrix_limit_mib=0)
    plain = score_all(model, texts, videos, chunk_size=16)
    assert torch.equal(mapped, plain)
    assert ranking_metrics(mapped, owner) == ranking_metrics(plain, owner)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_method_and_pair(value: float) -> None:
    texts = vectors(6, 0)
    texts.vector[4] = value
    with pytest.raises(ScoreError, match="Dot scored text 4 with video 0"):
        score_all(Dot(), texts, vectors(5, 1), chunk_size=3)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    with pytest.raises(ConfigError, match=f"chunk_size is {chunk}; at least 1"):
        score_all(Dot(), vectors(3, 0), vectors(3, 1), chunk_size=chunk)
    with pytest.raises(ConfigError, match="chunk_size"):
        Evaluation(chunk_size=chunk)


@pytest.mark.parametrize("shape", [(5,), (6, 1), (5, 6)])
def test_scores_of_another_shape_are_not_spread_over_the_matrix(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dot, "score", lambda *_: torch.zeros(shape))
    with pytest.raises(ScoreError, match="6 texts and 5 videos"):
        score_all(Dot(), vectors(6, 0), vectors(5, 1))


def test_a_device_that_has_room_keeps_features_and_scores_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = score_all(Dot(), vectors(9, 0), vectors(7, 1), chunk_size=4)
    asked: list[int] = []
    monkeypatch.setattr(scoring, "fits", lambda size, device: asked.append(size) or True)
    assert torch.equal(score_all(Dot(), vectors(9, 0), vectors(7, 1), chunk_size=4), plain)
    assert asked == [9 * 7 * 4, 7 * 3 * 4]  # the matrix, the videos


def test_a_matrix_that_is_given_is_filled_and_must_fit() -> None:
    out = torch.empty(5, 4)
    assert score_all(Dot(), vectors(5, 0), vectors(4, 1), out=out) is out
    assert torch.equal(out, score_all(Dot(), vectors(5, 0), vectors(4, 1)))
    for wrong in (torch.empty(4, 5), torch.empty(5, 4, dtype=torch.double)):
        with pytest.raises(ValueError, match=r"5 texts and 4 videos need float32 \(5, 4\)"):
            score_all(Dot(), vectors(5, 0), vectors(4, 1), out=wrong)


def test_every_gpu_gets_a_chunk() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert scoring._suited(cpu, 10, 4) == scoring._suited(cpu, 100_000, 1)
    assert [scoring._suited(gpu, 10, world) for world in (1, 4, 20)] == [10, 3, 1]
    assert scoring._suited(gpu, 1_000_000, 4) == scoring._suited(gpu, 10_000_000, 1)


def test_features_that_lie_in_two_places_are_brought_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = vectors(3, 0), vectors(2, 1).map(lambda x: x.to("meta"))
    waited: list[torch.device] = []
    monkeypatch.setattr(encoding, "to_host", lambda x: torch.ones(x.shape) if x.is_meta else x)
    monkeypatch.setattr(encoding, "wait", waited.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    items = [ItemIndex(torch.tensor([2, 0, 1])), ItemIndex(torch.tensor([4, 3]))]
    joined, places = join_batches([(here, items[0]), (there, items[1])])
    assert torch.equal(joined.vector, torch.cat([here.vector, torch.ones(2, 3)]))
    assert places.tolist() == [2, 0, 1, 4, 3]
    assert waited == [torch.device("cuda")]  # copies from a GPU are read when they are there


def test_a_method_that_reads_the_truth_is_given_the_captions_own_videos() -> None:
    texts, videos, owner = vectors(6, 0), vectors(3, 1), torch.arange(6) % 3
    encoded = EncodedSplit(texts, videos, owner)

    class Reader(Dot):
        reads_ground_truth = True

        def match(self, texts: Vectors, videos: Vectors, rows: Tensor) -> tuple[Vectors, Vectors]:
            assert not self.training
            return Vectors(videos.vector[rows]), videos

    matched = scored_items(Reader(), encoded)
    assert torch.equal(matched.texts.vector, videos.vector[owner])
    assert torch.equal(scored_items(Dot(), encoded).texts.vector, texts.vector)


def test_a_part_of_a_score_encodes_as_the_method_does() -> None:
    model = Dot()
    part = PartOf(model, 0)
    index = torch.arange(2)
    text = TextInput(torch.arange(6).view(2, 3), torch.ones(2, 3, dtype=torch.bool), index, index)
    video = VideoInput(torch.ones(2, 2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool), index)
    assert torch.equal(part.encode_text(text).vector, model.encode_text(text).vector)
    assert torch.equal(part.encode_video(video).vector, model.encode_video(video).vector)


def test_every_part_of_a_method_gets_its_own_mode_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).train()
    model[1].eval()
    with inference(model):
        assert not model[0].training
    assert [part.training for part in model.modules()] == [True, True, False]


def test_videos_that_could_not_be_encoded_take_their_captions_along() -> None:
    texts, videos = vectors(8, 0), vectors(4, 1)
    owner = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    kept = torch.tensor([0, 3])
    encoded = EncodedSplit(texts, videos[kept], owner, video_ids=kept, num_videos=4)
    result = evaluate(Dot(), encoded, Evaluation(resamples=10))
    part = EncodedSplit(texts[torch.tensor([0, 1, 6, 7])], videos[kept], torch.tensor([0, 0, 1, 1]))
    expected = evaluate(Dot(), part, Evaluation(resamples=10))
    assert result.metrics == expected.metrics
    assert result.left_out == 2
    assert result.caption_ids.tolist() == [0, 1, 6, 7]
    assert set(result.top["t2v"][1].flatten().tolist()) == {0, 3}


def test_no_caption_left_is_an_error() -> None:
    owner = torch.tensor([0, 0])
    with pytest.raises(DataError, match="none of the captions"):
        evaluate(
            Dot(),
            EncodedSplit(vectors(2, 0), vectors(1, 1), owner, video_ids=owner[:1] + 1, num_videos=2),
            Evaluation(),
        )


def test_post_processing_stands_beside_the_plain_figures() -> None:
    texts, videos = vectors(12, 0), vectors(12, 1)
    owner = torch.arange(12)
    encoded = EncodedSplit(texts, videos, owner)
    plain = evaluate(Dot(), encoded, Evaluation())
    options = Evaluation(dual_softmax=1.0, qb_norm=2.0)
    both = evaluate(Dot(), encoded, options, TrainingItems(Bank(texts=vectors(20, 3))))
    assert {k: v for k, v in both.metrics.items() if not k.startswith(("dsl/", "qb/"))} == plain.metrics
    assert {k.partition("/")[0] for k in both.metrics} == {"t2v", "v2t", "SumR", "dsl", "qb"}
    assert "qb/t2v/R@1" in both.metrics
    assert "qb/v2t/R@1" not in both.metrics
    assert "qb/SumR" not in both.metrics
    assert both.metrics["dsl/SumR"] == pytest.approx(both.metrics["dsl/t2v/RSum"] + both.metrics["dsl/v2t/RSum"])


def test_a_bank_of_videos_is_for_video_to_text() -> None:
    texts, videos, owner = vectors(12, 0), vectors(12, 1), torch.arange(12)
    bank = Bank(vectors(20, 3), vectors(9, 4))
    options = Evaluation(qb_norm=2.0, sinkhorn=0.5, resamples=0)
    found = evaluate(Dot(), EncodedSplit(texts, videos, owner), options, TrainingItems(bank)).metrics
    assert {k.partition("/")[0] for k in found} == {"t2v", "v2t", "SumR", "qb", "sk", "sk1"}
    for name in ("qb", "sk", "sk1"):
        assert found[f"{name}/SumR"] == pytest.approx(found[f"{name}/t2v/RSum"] + found[f"{name}/v2t/RSum"])
    # the other direction is the same with texts and videos exchanged
    turned = evaluate(
        Dot(), EncodedSplit(videos, texts, owner), options, TrainingItems(Bank(bank.videos, bank.texts))
    ).metrics
    for name in ("qb", "sk", "sk1"):
        for metric in ("R@1", "R@5", "MdR", "MnR"):
            assert found[f"{name}/t2v/{metric}"] == pytest.approx(turned[f"{name}/v2t/{metric}"])
            assert found[f"{name}/v2t/{metric}"] == pytest.approx(turned[f"{name}/t2v/{metric}"])


class Parts(Dot):
    """A score that is the mean of two."""

    parts = ("first half", "second half")

    def part_scores(self, texts: Vectors, videos: Vectors) -> torch.Tensor:
        half = texts.vector.shape[1] // 2
        first = texts.vector[:, :half] @ videos.vector[:, :half].T
        return 2 * torch.stack([first, texts.vector @ videos.vector.T - first], dim=-1)


def test_each_part_of_a_score_has_biases_of_its_own() -> None:
    texts, videos, bank = vectors(12, 0), vectors(12, 1), vectors(20, 3)
    encoded, options = EncodedSplit(texts, videos, torch.arange(12)), Evaluation(sinkhorn=0.5, resamples=0)
    whole, parts = (evaluate(m, encoded, options, TrainingItems(Bank(bank))).metrics for m in (Dot(), Parts()))
    biases = torch.stack([sinkhorn_biases(s, 0.5) for s in Parts().part_scores(bank, videos).unbind(-1)]).mean(0)
    expected = ranking_metrics(texts.vector @ videos.vector.T + biases, torch.arange(12))
    for metric in ("R@1", "R@5", "MnR"):
        assert parts[f"sk/t2v/{metric}"] == pytest.approx(expected[f"t2v/{metric}"])
    assert parts["sk/t2v/MnR"] != whole["sk/t2v/MnR"]
    assert {k: v for k, v in parts.items() if not k.startswith("sk/")} == pytest.approx(
        {k: v for k, v in whole.items() if not k.startswith("sk/")}
    )


@pytest.mark.parametrize(
    ("name", "value"), [("sinkhorn", 0.0), ("qb_norm", -1.0), ("dual_softmax", 0.0), ("sinkhorn_rounds", 0),
                        ("qb_bank", 0), ("qb_videos", -1), ("resamples", -1), ("resamples", 10**9),
                        ("sinkhorn_rounds", 100_000), ("matrix_limit_mib", -1),
                        *((n, x) for n in ("sinkhorn", "qb_norm", "dual_softmax")
                          for x in (1e-300, 1e9, float("inf"), float("nan")))],
)  # fmt: skip
def test_settings_of_post_processing_that_mean_nothing(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"model\.evaluation\.{name} is {value}"):
        Evaluation(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value", "factor"), [("sinkhorn", 1e-4, 100.0), ("dual_softmax", 1e-4, 1e36),
                                                       ("qb_norm", 1.0, 3e38)])  # fmt: skip
def test_a_temperature_that_does_not_fit_the_scores_is_named(name: str, value: float, factor: float) -> None:
    """Scores themselves are finite, so it is neither the weights nor the features."""
    texts, videos, bank = Vectors(factor * torch.eye(6)), Vectors(torch.eye(6)), Vectors(torch.full((2, 6), -factor))
    encoded, options = EncodedSplit(texts, videos, torch.arange(6)), Evaluation(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match=rf"^model\.evaluation\.{name}={value}: .*Set it to the unit"):
        evaluate(Dot(), encoded, options, TrainingItems(Bank(bank)))


def test_probes_follow_the_split_s_rows() -> None:
    videos = Vectors(torch.eye(3))
    right = EncodedSplit(Vectors(torch.eye(3)), videos, torch.arange(3), probes=[("order", 0, 2)])
    assert evaluate(Dot(), right, Evaluation()).metrics["probe/order"] == 100.0
    wrong = evaluate(Dot(), replace(right, texts=Vectors(torch.eye(3)[[2, 1, 0]])), Evaluation())
    assert wrong.metrics["probe/order"] == 0.0


def test_top_items_are_the_best_ones() -> None:
    texts, videos = vectors(15, 0), vectors(13, 1)
    result = evaluate(Dot(), EncodedSplit(texts, videos, torch.arange(15) % 13), Evaluation())
    scores = texts.vector @ videos.vector.T
    values, ids = result.top["t2v"]
    assert torch.equal(ids, scores.argsort(dim=1, descending=True)[:, :10])
    torch.testing.assert_close(values, scores.sort(dim=1, descending=True).values[:, :10])
    assert result.top["v2t"][1].shape == (13, 10)
