"""Two networks in turn, without SPTCH: a method of three linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.evaluation import CodeOptions, Evaluation
from tvr_lightning.methods.alternating import AlternatingPasses
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput

from .sptch_cases import BITS, FRAMES, STEPS, VIDEOS, WORDS, Data, batch_of
from .test_sptch_training import Watch, changed

Graph = tuple[Tensor, Tensor]


class Toy(AlternatingPasses[CodeFeatures, Graph]):
    """G: one layer over both features; F: one layer a modality, which learns G's signs."""

    image_size = 16
    encoders: Sequence[nn.Module] = ()

    def __init__(self, graph: bool = True, evaluation: Evaluation = Evaluation()) -> None:
        super().__init__(Optimizer(lr=0.1), evaluation, graph_lr=0.2)
        torch.manual_seed(0)
        self.both = nn.Linear(3 + WORDS, BITS) if graph else None
        self.video, self.text = nn.Linear(3, BITS), nn.Linear(WORDS, BITS)

    def networks(self) -> tuple[nn.Module | None, nn.Module]:
        return self.both, nn.ModuleList([self.video, self.text])

    def video_source(self, video: VideoInput) -> Tensor:
        return masked_mean(video.frames.float().mean((3, 4)), video.frame_mask) / 255

    def text_source(self, text: TextInput) -> Tensor:
        return text.tokens / 60

    def graph_of(self, video_features: Tensor, text_features: Tensor) -> Graph:
        return video_features, text_features

    def encode_video(self, video: VideoInput) -> CodeFeatures:
        source = self.video_source(video)
        return CodeFeatures(self.video(source), source)

    def encode_text(self, text: TextInput) -> CodeFeatures:
        source = self.text_source(text)
        return CodeFeatures(self.text(source), source)

    def score(self, texts: CodeFeatures, videos: CodeFeatures) -> Tensor:
        return texts.codes.float() @ videos.codes.float().T

    def graph_losses(self, graph: Graph, rows: Tensor) -> Mapping[str, Tensor]:
        if self.both is None:
            return {}
        codes = self.both(torch.cat([x[rows] for x in graph], dim=1))
        return {"quantisation": (codes.abs() - 1).square().mean()}

    def hash_losses(
        self, graph: Graph, rows: Tensor, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        torch.testing.assert_close(graph[0][rows], videos.source)  # the rows are those of the batch
        torch.testing.assert_close(graph[1][rows], texts.source)
        return {"distance": (texts.real - videos.real).square().mean()}


class Plain(Data):
    """Keeps no features: the toy has no frozen encoder."""

    def precompute_features(self, video: Any, text: Any, device: torch.device) -> None: ...


def fit(model: Toy, epochs: int) -> Watch:
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[watch], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, Plain())
    return watch


def test_the_networks_take_turns_at_their_own_rates() -> None:
    model = Toy()
    watch = fit(model, 4)
    assert [changed(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)] == [
        {"both"}, {"video", "text"}, {"both"}, {"video", "text"},
    ]  # fmt: skip
    assert [o.param_groups[0]["lr"] for o in model.trainer.optimizers] == [0.2, 0.1]
    assert model.trainer.global_step == 4 * STEPS
    assert {"train/quantisation", "train/distance"} & watch.logged[-1] == set()  # one term is the total
    assert {"train/graph_loss", "train/loss"} <= watch.logged[-1]
    graph = model.graph
    assert graph is not None
    assert [tuple(x.shape) for x in graph] == [(VIDEOS, 3), (VIDEOS, WORDS)]


def test_without_g_every_second_epoch_rests() -> None:
    watch = fit(Toy(graph=False), 2)
    assert [changed(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)] == [set(), {"video", "text"}]


def test_an_odd_number_of_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_epochs is 3"):
        fit(Toy(), 3)


def test_losses_without_a_training_set_take_the_batch_for_it() -> None:
    model, batch = Toy(), batch_of(5)
    assert batch.video.frame_mask.shape == (5, FRAMES)
    assert set(model.compute_losses(*model.encode(batch), batch.text.video_index)) == {"quantisation", "distance"}


class Captions:
    def __init__(self, text: TextInput) -> None:
        self.text = text

    def __len__(self) -> int:
        return len(self.text)

    def rows(self, rows: Tensor) -> TextInput:
        return self.text[rows]


class Known:
    """A data module with a test split of captions; counts how often the database is asked for."""

    tokenizer = SimpleNamespace(vocabulary_size=60)

    def __init__(self, captions: int) -> None:
        self.asked = 0
        self.split = SimpleNamespace(name="test", captions=Captions(batch_of(4).text[:captions]))

    def split_of(self, stage: str) -> Any:
        assert stage == "test"
        return self.split

    def database_split(self) -> None:
        self.asked += 1

    def precompute_features(self, *_: Any) -> None: ...


class Untold(Toy):
    """Says nothing about the type of its features."""

    def encode_text(self, text):
        return super().encode_text(text)


class Uncoded(Toy):
    """Inherits from a hashing method, and gives no codes."""

    def encode_text(self, text: TextInput) -> Any:
        return text


@pytest.mark.parametrize(
    ("model", "database", "stage", "asked"),
    [
        (Toy, "train", "test", 1),
        (Untold, "train", "test", 1),
        (Uncoded, "train", "test", 0),
        (Toy, "test", "test", 0),
        (Toy, "train", "validate", 0),
    ],
)
def test_the_training_items_are_set_up_before_a_test_of_codes(
    model: type[Toy], database: Any, stage: str, asked: int
) -> None:
    data = Known(4)
    method = model(evaluation=Evaluation(codes=CodeOptions(database=database))).train()
    method._trainer = SimpleNamespace(datamodule=data, max_epochs=2, strategy=SimpleNamespace(root_device="cpu"))
    method.setup(stage)
    assert data.asked == asked
    assert method.training


def test_a_test_split_without_captions_is_an_error_at_once() -> None:
    method = Toy()
    method._trainer = SimpleNamespace(datamodule=Known(0), max_epochs=2)
    with pytest.raises(DataError, match="the test split has no captions"):
        method.setup("test")
