"""Hashing metrics of methods whose features are codes, beside ranking metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import ConfigError, DataError, ScoreError
from tvr_lightning.evaluation import (
    CodeOptions,
    EncodedSplit,
    Evaluation,
    TrainingItems,
    encode_split,
    evaluate,
)
from tvr_lightning.evaluation.encoding import feature_type
from tvr_lightning.metrics import hashing_metrics
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput

BITS, CLASSES = 12, 4
SPTCH = Path(__file__).parents[2] / "experiments" / "sptch_shapes.yaml"


@dataclass(frozen=True)
class MoreThanCodes(CodeFeatures):
    logits: Tensor


class Hasher:
    """A method whose inputs are codes already."""

    def __init__(self) -> None:
        self.training = True
        self.device = torch.device("cpu")

    def train(self, mode: bool = True) -> Hasher:
        self.training = mode
        return self

    def encode_text(self, text: TextInput) -> CodeFeatures:
        assert not self.training
        return CodeFeatures(text.tokens.float(), text.tokens.float())

    def encode_video(self, video: VideoInput) -> CodeFeatures:
        assert not self.training
        return CodeFeatures(video.features[:, 0], video.features[:, 0])

    def score(self, texts: CodeFeatures, videos: CodeFeatures) -> Tensor:
        return texts.codes.float() @ videos.codes.float().T


def features(labels: list[tuple[int, ...]], seed: int, noise: float = 1.0) -> CodeFeatures:
    """Relaxed codes near their class's own, of features that share its direction."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(CLASSES, BITS, generator=generator)
    generator.manual_seed(seed)
    clean = torch.stack([centres[list(own)].mean(0) for own in labels])
    real = clean + noise * torch.randn(len(labels), BITS, generator=generator)
    return CodeFeatures(real, 2.0 + clean + torch.randn(len(labels), BITS, generator=generator))


def split(count: int, seed: int, captions: int = 1) -> tuple[CodeFeatures, CodeFeatures, Tensor, list[tuple[int, ...]]]:
    labels = [(i % CLASSES,) if i % 5 else (i % CLASSES, (i + 1) % CLASSES) for i in range(count)]
    owner = torch.arange(count).repeat_interleave(captions)
    texts = features([labels[v] for v in owner.tolist()], seed)
    return texts, features(labels, seed + 1), owner, labels


def hot(labels: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor([[c in own for c in range(CLASSES)] for own in labels])


def test_codes_are_measured_in_both_directions_beside_ranks() -> None:
    texts, videos, owner, labels = split(40, 0, captions=2)
    result = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation(resamples=200))
    plain = {k: v for k, v in result.metrics.items() if not k.startswith("hash/")}
    assert plain.keys() >= {"t2v/R@1", "SumR", "v2t/mAP"}
    t2v = hashing_metrics(texts.codes, videos.codes, hot([labels[v] for v in owner.tolist()]), hot(labels))
    v2t = hashing_metrics(videos.codes, texts.codes, hot(labels), hot([labels[v] for v in owner.tolist()]))
    for direction, expected in (("t2v", t2v), ("v2t", v2t)):
        for name, value in expected.items():
            assert result.metrics[f"hash/{direction}/{name}"] == pytest.approx(value)
        low, high = result.intervals[f"hash/{direction}/mAP"]
        assert low < expected["mAP"] < high
    assert result.metrics["hash/mAP"] == pytest.approx((t2v["mAP"] + v2t["mAP"]) / 2)
    assert result.hashing is not None
    assert result.hashing.facts == {
        "database": "test", "texts": 80, "videos": 40, "normalise": "relevant", "bits": BITS,
        "queries_without_relevant": {"t2v": 0, "v2t": 0},
    }  # fmt: skip
    assert float(result.hashing.curves["t2v"].recall[-1]) == 1.0


def test_learned_codes_are_compared_with_baselines_of_as_many_bits() -> None:
    texts, videos, owner, labels = split(120, 0)
    result = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation(resamples=0))
    m = result.metrics
    for direction in ("t2v", "v2t"):
        chance = m[f"hash/chance/{direction}/mAP"]
        relevant = (hot(labels).float() @ hot(labels).float().T > 0).float().mean()
        assert chance == pytest.approx(100 * float(relevant), abs=3)
        # both modalities share their features' space here, so that equal hyperplanes find something
        assert m[f"hash/random/{direction}/mAP"] > chance + 5
        assert m[f"hash/{direction}/mAP"] > chance + 5
        assert 0 < m[f"hash/pca/{direction}/mAP"] <= 100
    assert result.intervals == {}
    again = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation(resamples=0))
    assert again.metrics == m
    validated = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation(), final=False)
    assert not any(k.startswith(("hash/pca", "hash/random", "hash/chance")) for k in validated.metrics)
    assert validated.metrics["hash/t2v/mAP"] == m["hash/t2v/mAP"]


def test_a_database_of_training_items() -> None:
    texts, videos, owner, labels = split(30, 0)
    known_texts, known_videos, known_owner, known = split(70, 5, captions=3)
    training_items = TrainingItems(
        database=EncodedSplit(known_texts, known_videos, known_owner, labels=known, name="train")
    )
    options = Evaluation(codes=CodeOptions(normalise="retrieved"))
    result = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), options, training_items)
    expected = hashing_metrics(
        videos.codes, known_texts.codes, hot(labels), hot([known[v] for v in known_owner.tolist()]),
        normalise="retrieved",
    )  # fmt: skip
    assert result.metrics["hash/v2t/mAP@50"] == pytest.approx(expected["mAP@50"])
    assert result.hashing is not None
    assert {k: result.hashing.facts[k] for k in ("database", "texts", "videos", "normalise")} == {
        "database": "train", "texts": 210, "videos": 70, "normalise": "retrieved",
    }  # fmt: skip


def test_videos_that_could_not_be_encoded_take_captions_and_labels_along() -> None:
    texts, videos, owner, labels = split(20, 0)
    kept = torch.tensor([0, 3, 4, 11, 19])
    encoded = EncodedSplit(texts, videos[kept], owner, video_ids=kept, num_videos=20, labels=labels)
    part = evaluate(Hasher(), encoded, Evaluation())
    own = [labels[i] for i in kept.tolist()]
    whole = evaluate(Hasher(), EncodedSplit(texts[kept], videos[kept], torch.arange(5), labels=own), Evaluation())
    assert part.metrics == whole.metrics


def test_queries_of_classes_that_the_database_lacks_are_counted() -> None:
    texts, videos, owner, labels = split(16, 0)
    labels[2], labels[7] = (9,), ()
    database = EncodedSplit(texts[:2], videos[:2], owner[:2], labels=[(0, 1, 2, 3), (5,)], name="train")
    encoded = EncodedSplit(texts, videos, owner, labels=labels)
    result = evaluate(Hasher(), encoded, Evaluation(), TrainingItems(database=database))
    assert result.hashing is not None
    assert result.hashing.facts["queries_without_relevant"] == {"t2v": 2, "v2t": 2}
    assert result.metrics["hash/t2v/n_queries_without_relevant"] == 2


def test_without_labels_ranks_alone_are_reported_and_it_is_said() -> None:
    texts, videos, owner, labels = split(12, 0)
    for known in ((), [()] * 12):
        with pytest.warns(UserWarning, match="no hashing metrics"):
            result = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=known), Evaluation())
        assert result.hashing is None
        assert not any(k.startswith("hash/") for k in result.metrics)
    single = evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation())
    assert single.hashing is not None


def test_features_without_a_source_have_no_projections() -> None:
    texts, videos, owner, labels = split(12, 0)
    bare = [MoreThanCodes(x.real, x.real[:, :0], x.real) for x in (texts, videos)]
    result = evaluate(Hasher(), EncodedSplit(*bare, owner, labels=labels), Evaluation())
    assert "hash/chance/t2v/mAP" in result.metrics
    assert "hash/pca/t2v/mAP" not in result.metrics


def test_a_code_that_is_no_number_is_an_error() -> None:
    texts, videos, owner, labels = split(12, 0)
    texts.real[5, 3] = torch.nan
    with pytest.raises(ScoreError, match=r"code of text of the test split in row 5 is not finite.*1 of 12"):
        evaluate(Hasher(), EncodedSplit(texts, videos, owner, labels=labels), Evaluation())


def test_a_database_is_encoded_from_loaders() -> None:
    _, videos, owner, labels = split(8, 0, captions=2)
    tokens = torch.randint(-9, 9, (16, BITS))
    text = TextInput(tokens, torch.ones(16, BITS, dtype=torch.bool), torch.arange(16), owner)
    rows = torch.tensor([0, 1, 2, 4, 7])
    video = VideoInput(
        torch.zeros(5, 1, 3, 0, 0, dtype=torch.uint8), torch.ones(5, 1, dtype=torch.bool), rows, videos.real[rows, None]
    )
    train: Any = SimpleNamespace(
        name="train",
        caption_video=owner,
        records=[SimpleNamespace(labels=own) for own in labels],
        probes=(),
        relevant=torch.empty(0, 2, dtype=torch.int64),
    )
    model = Hasher()
    database = encode_split(model, train, ([text[:9], text[9:]], [video[:3], None, video[3:]]), shared=True)
    assert model.training
    assert database.name == "train"
    assert torch.equal(database.texts.real, tokens.float())
    assert torch.equal(database.videos.real, videos.real[rows])
    assert database.text_labels == [labels[v] for v in owner.tolist()]
    assert database.video_labels == [labels[v] for v in rows.tolist()]
    assert (database.num_videos, database.row_of.tolist()) == (8, [0, 1, 2, -1, 3, -1, -1, 4])
    with pytest.raises(DataError, match="nothing to encode: none of the train videos could be read"):
        encode_split(model, train, ([text], [None]))
    assert model.training


def test_a_split_without_captions_is_named_before_anything_is_encoded() -> None:
    empty: Any = SimpleNamespace(name="test", captions=[])
    with pytest.raises(DataError, match="the test split has no captions"):
        feature_type(Hasher(), empty)


def test_the_type_of_features_is_that_of_the_first_caption() -> None:
    text = TextInput(
        torch.ones(3, BITS, dtype=torch.int64), torch.ones(3, BITS, dtype=torch.bool), *[torch.arange(3)] * 2
    )
    asked: list[list[int]] = []

    class Captions:
        def __len__(self) -> int:
            return 3

        def rows(self, which: Tensor) -> TextInput:
            asked.append(which.tolist())
            return text[which]

    some: Any = SimpleNamespace(name="test", captions=Captions())
    assert feature_type(Hasher(), some) is CodeFeatures

    class Module(torch.nn.Linear):
        encode_text = Hasher.encode_text

    assert feature_type(Module(2, 2), some) is CodeFeatures  # its weights say where captions go
    assert asked == [[0], [0]]


@pytest.mark.parametrize("name", ["database", "normalise"])
def test_the_options_old_names_lead_to_their_place(name: str) -> None:
    setting = f"--model.evaluation.hashing_{name}=test"
    with pytest.raises(ConfigError, match=rf"unknown key '.*hashing_{name}'; did you mean codes\.{name}\?"):
        read_arguments(["--config", str(SPTCH), setting])
    config, _ = read_arguments(["--config", str(SPTCH), "--model.evaluation.codes.database=test"])
    assert config["model"]["init_args"]["evaluation"] == {"codes": {"database": "test"}}
