"""SPTCH: its codes, its two passes, its variants, and runs that go on in the middle of a pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tvr_lightning.callbacks.guard import FiniteLoss
from tvr_lightning.callbacks.resume import KeepLast
from tvr_lightning.checkpoints import AtomicCheckpointIO
from tvr_lightning.data.dataset import SeededSampler
from tvr_lightning.encoders import BERTEncoder, BERTSize, VGGEncoder, VGGSize
from tvr_lightning.errors import ConfigError, ScoreError
from tvr_lightning.methods.sptch import SPTCH, HashFeatures, Variant
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.nn.collaborative_graph import CollaborativeGraph
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput, VideoTextBatch

WORDS, FRAMES, SIZE, BITS, PIECES = 7, 5, 16, 12, 60
VGG = VGGSize(image_size=SIZE, blocks=((4,), (8,)), pooled=2, hidden_dim=24, embed_dim=20)
BERT = BERTSize(width=16, layers=1, heads=2, mlp_width=32, vocabulary_size=PIECES, positions=16, dropout=0.0)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
VIDEOS = 18
BATCH = 4
STEPS = VIDEOS // BATCH  # of a pass


def build(variant: Variant = "full", **settings: Any) -> SPTCH:
    torch.manual_seed(0)
    small = {"code_length": BITS, "width": 16, "num_layers": 1, "graph_width": 16, "dropout": 0.0, "max_frames": 8}
    return SPTCH(
        VGGEncoder(size=VGG),
        BERTEncoder(size=BERT, freeze=True, context_length=16),
        BERTEncoder(size=BERT, context_length=16),
        variant=variant,
        **{**small, **settings},
    )


def texts_of(count: int, seed: int = 1) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, PIECES, (count, WORDS), generator=generator)
    mask = torch.arange(WORDS) < torch.randint(3, WORDS + 1, (count, 1), generator=generator)
    return TextInput(tokens * mask, mask, torch.arange(count), torch.arange(count))


def videos_of(count: int, seed: int = 2) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (count, 1, 3, 1, 1), generator=generator)
    frames = torch.randint(-60, 60, (count, FRAMES, 3, SIZE, SIZE), generator=generator) + colours
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames.clamp(0, 255).byte() * mask[..., None, None, None], mask, torch.arange(count))


def noisy(video: VideoInput, seed: int) -> VideoInput:
    change = torch.randint(-9, 9, video.frames.shape, generator=torch.Generator().manual_seed(seed))
    frames = (video.frames.int() + change).clamp(0, 255).byte() * video.frame_mask[..., None, None, None]
    return replace(video, frames=frames)


def batch_of(count: int, seed: int = 3) -> VideoTextBatch:
    text, video = texts_of(count), videos_of(count)
    return VideoTextBatch(text, video, VideoTextBatch(text, noisy(video, seed)))


def terms(model: SPTCH, batch: VideoTextBatch) -> dict[str, Tensor]:
    return dict(model.compute_losses(*model.encode(batch), batch.text.video_index))


@torch.no_grad()
def test_codes_are_signs_and_scores_their_inner_products() -> None:
    model = build().eval()
    texts, videos = model.encode_text(texts_of(6)), model.encode_video(videos_of(4))
    for features, width in ((texts, BERT.width), (videos, VGG.embed_dim)):
        assert isinstance(features, CodeFeatures)
        assert features.codes.dtype == torch.int8
        assert features.codes.shape == (len(features), BITS)
        assert set(features.codes.unique().tolist()) == {-1, 1}
        torch.testing.assert_close(features.real, features.logits.tanh())
        assert features.source.shape == (len(features), width)
    scores = model.score(texts, videos)
    assert scores.shape == (6, 4)
    distance = (texts.codes[:, None] != videos.codes[None]).sum(-1)
    assert torch.equal(scores, BITS - 2.0 * distance)


def test_zero_counts_as_plus_one() -> None:
    zero = torch.zeros(1, BITS)
    assert HashFeatures(zero, zero, zero, zero).codes.tolist() == [[1] * BITS]


@torch.no_grad()
def test_an_item_has_one_code_whatever_the_batch() -> None:
    model = build().double().eval()
    text, video = texts_of(9), videos_of(9)
    whole = model.encode_text(text), model.encode_video(video)
    for rows in (slice(2, 3), slice(0, 5), torch.tensor([8, 2, 2, 0])):
        for part, features in ((model.encode_text(text[rows]), whole[0]), (model.encode_video(video[rows]), whole[1])):
            torch.testing.assert_close(part.real, features[rows].real)
            assert torch.equal(part.codes, features[rows].codes)
    again = model.encode_text(text), model.encode_video(video)
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(whole, again, strict=True))


@torch.no_grad()
def test_kept_features_give_the_codes_of_pixels() -> None:
    model = build().eval()
    text, video = texts_of(5), videos_of(5)
    kept = VideoInput(video.frames[..., :0, :0], video.frame_mask, video.index, model.frozen_video().encode(video))
    for x, y in zip(
        model.encode_video(kept).tensors().values(), model.encode_video(video).tensors().values(), strict=True
    ):
        torch.testing.assert_close(x, y)
    row = model.frozen_text().encode(text)
    assert row.shape == (5, 1, BERT.width)
    torch.testing.assert_close(model.encode_text(replace(text, features=row)).source, model.encode_text(text).source)
    lengths = text.token_mask.sum(1)
    tokens = model.text_encoder.encode_tokens(text.tokens, text.token_mask)
    torch.testing.assert_close(row[:, 0], torch.stack([t[:n].mean(0) for t, n in zip(tokens, lengths, strict=True)]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_its_terms_and_no_others(variant: Variant) -> None:
    model = build(variant).train()
    graph = {"reconstruction", "neighbourhood", "quantisation"}
    hashing = {"inter_modal", "intra_modal", "code", "similarity"}
    without = {"cont": {"inter_modal", "intra_modal"}, "sim": {"similarity"}, "bin": graph | {"code"}}
    found = terms(model, batch_of(6))
    assert set(found) == (graph | hashing) - without.get(variant, set())
    torch.stack(list(found.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("video_encoder" not in name and not name.startswith("text_encoder")), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_each_pass_has_gradients_in_its_network_only() -> None:
    model, batch = build(), batch_of(6)
    found = terms(model, batch)
    own = {id(p) for p in model.graph_network.parameters()}  # type: ignore[union-attr]
    for name, loss in found.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        touched = [p for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        in_graph = name in ("reconstruction", "neighbourhood", "quantisation")
        assert touched, name
        assert all((id(p) in own) == in_graph for p in touched), name


def test_terms_carry_the_papers_weights() -> None:
    batch = batch_of(6)
    weights = {
        "neighbourhood": "neighbour_weight", "quantisation": "quantisation_weight", "code": "code_weight",
        "similarity": "similarity_weight",
    }  # fmt: skip
    paper = terms(build(), batch)
    plain = terms(build(neighbour_weight=1.0, quantisation_weight=1.0, code_weight=1.0, similarity_weight=1.0), batch)
    for name, factor in {"neighbourhood": 0.2, "quantisation": 0.2, "code": 1.0, "similarity": 1.0}.items():
        torch.testing.assert_close(paper[name], factor * plain[name])
    nothing = terms(build(**dict.fromkeys(weights.values(), 0.0)), batch)
    assert all(float(nothing[name].detach()) == 0 for name in weights)


def test_the_codes_that_f_learns_leave_g_as_it_is() -> None:
    model, batch = build().train(), batch_of(6)
    before = {k: v.clone() for k, v in model.graph_network.state_dict().items()}  # type: ignore[union-attr]
    texts, videos = model.encode(batch)
    graph = CollaborativeGraph(videos.source, texts.source)
    losses = model.hash_losses(graph, torch.arange(6), texts, videos, torch.arange(6))
    again = model.hash_losses(graph, torch.arange(6), texts, videos, torch.arange(6))
    assert all(torch.equal(losses[k], again[k]) for k in losses)
    assert all(torch.equal(before[k], v) for k, v in model.graph_network.state_dict().items())  # type: ignore[union-attr]
    assert model.graph_network.training  # type: ignore[union-attr]


def test_s1_takes_the_plain_graph() -> None:
    model, batch = build("s1"), batch_of(6)
    texts, videos = model.encode(batch)
    graph = model._graph_of(videos.source, texts.source)
    torch.testing.assert_close(graph.block(torch.arange(6)).diagonal(), torch.ones(6))


def test_one_batch_can_be_learned() -> None:
    model, batch = build(code_length=32).train(), batch_of(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        torch.stack(list(terms(model, batch).values())).sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = model.score(model.encode_text(batch.text), model.encode_video(batch.video))
    assert ranking_metrics(scores, torch.arange(8))["SumR"] == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_length": 0}, "code_length is 0"),
        ({"variant": "b3"}, "variant is 'b3'"),
        ({"dropped": 10}, "dropped is 10; it is a share"),
        ({"video_share": -0.5}, r"video_share is -0\.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"heads": 3}, "heads is 3; it must divide model.width, 16"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_encoders_are_frozen_and_the_text_transformer_is_not() -> None:
    frozen, trained = (BERTEncoder(size=BERT, freeze=freeze, context_length=16) for freeze in (True, False))
    with pytest.raises(ConfigError, match=r"video_encoder.freeze is False.*set it to true"):
        SPTCH(VGGEncoder(size=VGG, freeze=False), frozen, trained)
    with pytest.raises(ConfigError, match=r"text_encoder.freeze is False"):
        SPTCH(VGGEncoder(size=VGG), trained, trained)
    with pytest.raises(ConfigError, match=r"text_hash_encoder.freeze is True.*set it to false"):
        SPTCH(VGGEncoder(size=VGG), frozen, frozen)


def test_a_batch_without_a_second_view() -> None:
    model, batch = build(), replace(batch_of(4), augmented=None)
    with pytest.raises(ConfigError, match=r"no second, augmented view.*set data\.augment"):
        model.encode(batch)
    plain = model.encode_text(batch.text), model.encode_video(batch.video)
    with pytest.raises(ConfigError, match=r"set data\.augment"):
        model.compute_losses(*plain, batch.text.video_index)
    terms(build("cont"), batch)
    nothing = VideoTextBatch(batch.text[:0], batch.video[:0])
    assert all(len(x) == 0 for x in model.encode(nothing))


class Pairs(Dataset[VideoTextBatch]):
    """Pairs whose second view depends on place and epoch alone."""

    def __init__(self) -> None:
        self.text, self.video = texts_of(VIDEOS), videos_of(VIDEOS)

    def __len__(self) -> int:
        return VIDEOS

    def __getitem__(self, key: tuple[int, int]) -> VideoTextBatch:
        place, epoch = key
        rows = slice(place, place + 1)
        text, video = self.text[rows], self.video[rows]
        return VideoTextBatch(text, video, VideoTextBatch(text, noisy(video, 100 * epoch + place)))


class Data(LightningDataModule):
    """What a run needs of a data module."""

    dataset, selection, seed, subset = "fake", "last", 0, None
    tokenizer = SimpleNamespace(vocabulary_size=PIECES, fingerprint=lambda: "fake")

    def __init__(self) -> None:
        super().__init__()
        self.start = (0, 0)
        self.pairs = Pairs()
        records = [SimpleNamespace(video_id=f"video{i}") for i in range(VIDEOS)]
        self.splits = {"train": SimpleNamespace(records=records, caption_video=torch.arange(VIDEOS))}

    def keep_features(self, video: Any, text: Any, device: torch.device) -> None:
        assert video.module.freeze
        assert text.module.freeze

    def train_dataloader(self) -> Any:
        sampler = SeededSampler(VIDEOS, self.seed, start=(self.start[0], self.start[1] * BATCH))
        own = torch.Generator()  # a loader must not draw from the generator that dropout draws from
        return DataLoader(
            self.pairs, BATCH, sampler=sampler, collate_fn=VideoTextBatch.cat, drop_last=True, generator=own
        )

    def evaluation_loaders(self, split: Any) -> Any:
        texts = [self.pairs.text[i : i + 5] for i in range(0, VIDEOS, 5)]
        return texts, [*(self.pairs.video[i : i + 7] for i in range(0, VIDEOS, 7)), None]


class Killed(BaseException):
    """Ends a run as suddenly as Python can."""


class Watch(Callback):
    """Keeps weights at the end of every epoch; kills the run in a step."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.weights: list[dict[str, Tensor]] = []
        self.logged: list[set[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at:
            raise Killed

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights.append({k: v.clone() for k, v in pl_module.state_dict().items()})
        self.logged.append(set(trainer.callback_metrics))


def fit(
    model: SPTCH, epochs: int = 4, at: int = -1, folder: Path | None = None, resume: Path | None = None, **settings: Any
) -> Watch:
    watch = Watch(at)
    callbacks: list[Callback] = [FiniteLoss(), watch]
    if folder is not None:
        callbacks.append(KeepLast(folder, 1))
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_checkpointing=folder is not None, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, num_sanity_val_steps=0, plugins=[AtomicCheckpointIO()], **settings,
    )  # fmt: skip
    torch.manual_seed(7)
    more: dict[str, Any] = {} if resume is None else {"ckpt_path": str(resume), "weights_only": True}
    trainer.fit(model, Data(), **more)
    return watch


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_passes_take_turns_and_change_their_network_only() -> None:
    model = build(optimizer=Optimizer(warmup=0.5))
    watch = fit(model)
    turns = [changed(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    hashing = {"video_hash", "text_hash", "text_hash_encoder"}
    assert turns == [{"graph_network"}, hashing, {"graph_network"}, hashing]
    assert {"train/reconstruction", "train/graph_loss"} <= watch.logged[1]
    assert {"train/inter_modal", "train/loss"} <= watch.logged[2]
    assert model.trainer.global_step == 4 * STEPS
    graph, hashes = model.trainer.optimizers
    assert (graph.param_groups[0]["lr"], hashes.param_groups[0]["lr"]) == (1e-3, 1e-4)
    assert len(model.graph) == VIDEOS  # type: ignore[arg-type]


def test_the_graph_holds_what_frozen_encoders_say_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def captions(self: Data, split: Any) -> Any:
        """Video 3 has no caption, video 5 has two, video 11 cannot be read."""
        keep = torch.tensor([i for i in range(VIDEOS) if i != 3] + [0])
        text = self.pairs.text[keep]
        video = torch.cat([keep[:-1], torch.tensor([5])])
        split.caption_video = video
        text = replace(text, index=torch.arange(len(text)), video_index=video)
        return [text], [self.pairs.video[torch.tensor([i for i in range(VIDEOS) if i != 11])]]

    monkeypatch.setattr(Data, "evaluation_loaders", captions)
    monkeypatch.setattr(Data, "train_dataloader", lambda self: DataLoader([batch_of(3)], batch_size=None))
    model = build("bin")
    fit(model, epochs=2)
    assert model.graph is not None
    assert len(model.graph) == VIDEOS - 2
    places = [i for i in range(VIDEOS) if i not in (3, 11)]
    assert model._place.tolist() == [places.index(i) if i in places else -1 for i in range(VIDEOS)]
    with torch.no_grad():
        text, video = model.encode_text(texts_of(VIDEOS)).source, model.encode_video(videos_of(VIDEOS)).source
    torch.testing.assert_close(model.graph.video_features, video[places])
    text[5] = (text[5] + text[0]) / 2
    torch.testing.assert_close(model.graph.text_features, text[places])


@pytest.mark.parametrize("at", [2, STEPS + 2, 2 * STEPS, 3 * STEPS - 1])
def test_a_run_that_was_killed_in_a_pass_ends_as_one_that_was_not(tmp_path: Path, at: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.1, "optimizer": Optimizer(schedule="cosine", weight_decay=0.1)}
    whole = fit(build(**settings), folder=tmp_path / "whole")
    with pytest.raises(Killed):
        fit(build(**settings), folder=tmp_path / "killed", at=at)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == at
    other = build(**settings)
    for parameter in other.parameters():
        parameter.data += 1.0  # everything comes from the checkpoint
    resumed = fit(other, folder=tmp_path / "killed", resume=last)
    assert not changed(whole.weights[-1], resumed.weights[-1])
    ends = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "killed")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 4 * STEPS
    for a, b in zip(*(end["optimizer_states"] for end in ends), strict=True):
        assert a["param_groups"] == b["param_groups"]
        for key, state in a["state"].items():
            assert all(torch.equal(state[name], b["state"][key][name]) for name in state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant: Variant) -> None:
    watch = fit(build(variant), epochs=2)
    graph = changed(watch.weights[0], watch.weights[1])
    assert graph == (set() if variant == "bin" else {"graph_network"})
    assert changed(watch.weights[1], watch.weights[2]) == {"video_hash", "text_hash", "text_hash_encoder"}


def test_gradients_are_clipped() -> None:
    norms: list[float] = []
    model = build(clip_norm=1e-3)
    plain = model.clip_gradients

    def clip(optimizer: Any, *arguments: Any) -> None:
        plain(optimizer, *arguments)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    model.clip_gradients = clip  # type: ignore[method-assign]
    fit(model, epochs=2)
    assert len(norms) == 2 * STEPS
    assert all(n == pytest.approx(1e-3, rel=1e-2) for n in norms)


@pytest.mark.parametrize("part", ["graph_network", "video_hash"])
def test_a_loss_that_is_no_number_stops_either_pass(part: str) -> None:
    model = build()
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(torch.nan)
    step = 0 if part == "graph_network" else STEPS
    with pytest.raises(ScoreError, match=rf"loss of step {step} is not finite; its batch holds the videos video\d"):
        fit(model)


def test_an_odd_number_of_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_epochs is 3: .*set an even number"):
        fit(build(), epochs=3)


def test_a_trial_run_shows_both_passes() -> None:
    model = build()
    watch = fit(model, epochs=1, fast_dev_run=2)
    assert len(changed(watch.weights[0], watch.weights[1])) == 4
    assert {"train/reconstruction", "train/inter_modal"} <= watch.logged[1]


def test_a_single_item_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Data, "train_dataloader", lambda self: DataLoader([batch_of(1)], batch_size=None))
    watch = fit(build(), epochs=2)
    assert not changed(watch.weights[0], watch.weights[2])


def test_chunks_of_a_step_give_the_same_gradients() -> None:
    def gradients(chunk: int | None) -> dict[str, Tensor]:
        model = build(optimizer=Optimizer(loss_chunk=chunk)).double()
        torch.stack(list(terms(model, batch_of(6)).values())).sum().backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    whole, parts = gradients(None), gradients(4)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])


@pytest.mark.parametrize(
    ("epochs", "batch", "message"),
    [(3, BATCH, "set an even number"), (4, VIDEOS + 1, "not one batch")],
)
def test_wrong_settings_are_refused_before_features_are_computed(
    epochs: int, batch: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_dataloader(data: Data) -> Any:
        if batch > VIDEOS:
            raise ConfigError("not one batch can be filled")
        return loader(data)

    loader, computed = Data.train_dataloader, []
    monkeypatch.setattr(Data, "train_dataloader", train_dataloader)
    monkeypatch.setattr(Data, "keep_features", lambda *_: computed.append(1))
    with pytest.raises(ConfigError, match=message):
        fit(build(), epochs=epochs)
    assert not computed


class Shared(Data):
    """Every rank's part of batches of 8, and of the passes that look at every item."""

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        world = self.trainer.world_size
        sampler = SeededSampler(VIDEOS, 0, self.trainer.global_rank, world)
        return DataLoader(self.pairs, 8 // world, sampler=sampler, collate_fn=VideoTextBatch.cat, drop_last=True)

    def evaluation_loaders(self, split: Any) -> Any:
        assert self.trainer is not None
        rows = torch.arange(self.trainer.global_rank, VIDEOS, self.trainer.world_size)
        return [self.pairs.text[rows]], [self.pairs.video[rows]]


def train_on(devices: int, file: Path) -> None:
    # eps: Adam takes the sign of gradients that are zero but for rounding
    model = build(optimizer=Optimizer(eps=1e-3)).double()
    trainer = Trainer(
        accelerator="cpu", devices=devices, max_epochs=4, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, Shared())
    if trainer.is_global_zero:
        torch.save(model.state_dict(), file)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_both_passes_on_two_devices_are_those_on_one(tmp_path: Path) -> None:
    """Under the plain `ddp` strategy: no parameter is unused in either pass."""
    for devices in (1, 2):
        subprocess.run([sys.executable, __file__, str(devices), str(tmp_path / f"{devices}.pt")], check=True)
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-12, msg=name)


if __name__ == "__main__":
    train_on(int(sys.argv[1]), Path(sys.argv[2]))
