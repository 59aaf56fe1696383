"""What saves memory changes no gradient: loss_chunk, gradient checkpointing, mixed precision."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import TextInput, VideoInput, VideoTextBatch

WORDS, FRAMES = 7, 3
Method = RetrievalModule[Any, Any]
METHODS: dict[str, Callable[..., Method]] = {
    "clip4clip-seqLSTM": lambda encoder, **more: CLIP4Clip(encoder, "seqLSTM", **more),
    "clip4clip-seqTransf": lambda encoder, **more: CLIP4Clip(encoder, "seqTransf", num_layers=1, **more),
    "tc_mgc": lambda encoder, **more: TCMGC(encoder, keep_rate=0.5, num_layers=1, **more),
}


def pairs(count: int = 8, seed: int = 1) -> VideoTextBatch:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(count)
    tokens = torch.randint(1, 400, (count, WORDS), generator=generator)
    tokens[:, -1] = 49407
    frames = torch.randint(0, 256, (count, FRAMES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    text = TextInput(tokens, torch.ones(count, WORDS, dtype=torch.bool), index, index)
    return VideoTextBatch(text, VideoInput(frames, torch.ones(count, FRAMES, dtype=torch.bool), index))


@pytest.fixture
def make(small_encoder: Callable[..., Any]) -> Callable[..., Method]:
    """Builds a method; every one of the same name has the same weights."""

    def make_method(name: str, chunk: int | None = None, **encoder: Any) -> Method:
        torch.manual_seed(0)
        optimizer = Optimizer(lr=1e-3, loss_chunk=chunk)
        method = METHODS[name](small_encoder(context_length=WORDS, **encoder), optimizer=optimizer)
        for parameter in method.parameters():
            if parameter.ndim > 1:
                parameter.data += 0.02 * torch.randn_like(parameter)
        return method.train()

    return make_method


def loss_of(method: Method, batch: VideoTextBatch, features: Any = None) -> Tensor:
    texts, videos = method.encode(batch) if features is None else features
    return torch.stack(list(method.compute_losses(texts, videos, batch.text.video_index).values())).sum()


def gradients(method: Method, batch: VideoTextBatch) -> dict[str, Tensor]:
    loss_of(method, batch).backward()
    return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


def gap(mine: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """The largest difference of a parameter's gradient, relative to it; rounding of gradients that are zero is none."""
    assert mine.keys() == reference.keys()
    rounding = 1e-6 * max(float(g.norm()) for g in reference.values())
    return max(float((mine[n] - g).norm() / g.norm().clamp(min=rounding)) for n, g in reference.items())


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_give_the_gradients_of_the_whole_batch(make: Callable[..., Method], name: str, chunk: int) -> None:
    plain = make(name).double()
    expected = loss_of(plain, pairs(), (plain.encode_text(pairs().text), plain.encode_video(pairs().video)))
    expected.backward()
    reference = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert {"logit_scale.log", "encoder.clip.visual.proj"} < reference.keys()
    method = make(name, chunk).double()
    assert gap(gradients(method, pairs()), reference) < 1e-9
    # what the batch's own chunks would give each alone: the check sees the difference
    apart = make(name).double()
    for part in (slice(0, 4), slice(4, 8)):
        (loss_of(apart, VideoTextBatch(pairs().text[part], pairs().video[part])) / 2).backward()
    assert gap({n: p.grad for n, p in apart.named_parameters() if p.grad is not None}, reference) > 0.01


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"freeze_layers": 1}, {"freeze": True}])
def test_chunks_go_with_what_else_saves_memory(make: Callable[..., Method], settings: dict[str, Any]) -> None:
    # float64: rounding would change which of two nearly equal similarities TC-MGC keeps
    plain = {k: v for k, v in settings.items() if k != "gradient_checkpointing"}
    reference = gradients(make("tc_mgc", **plain).double(), pairs())
    assert gap(gradients(make("tc_mgc", 3, **settings).double(), pairs()), reference) < 1e-9


class Dropping(CLIP4Clip):
    """CLIP4Clip with dropout in the encoder."""

    def encode_video(self, video: VideoInput) -> Any:
        features = super().encode_video(video)
        return features.map(lambda x: nn.functional.dropout(x, 0.5) if x.is_floating_point() else x)


def test_dropout_is_the_same_when_features_are_computed_again(small_encoder: Callable[..., Any]) -> None:
    def draw(chunk: int | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        optimizer = Optimizer(loss_chunk=chunk)
        method = Dropping(small_encoder(context_length=WORDS), "meanP", optimizer=optimizer).double().train()
        batch = pairs()
        torch.manual_seed(5)
        if chunk is not None:
            return gradients(method, batch)
        parts = [slice(i, i + 3) for i in range(0, 8, 3)]  # the same draws, with everything kept
        texts = [method.encode_text(batch.text[p]) for p in parts]
        videos = [method.encode_video(batch.video[p]) for p in parts]
        loss_of(method, batch, (type(texts[0]).cat(texts), type(videos[0]).cat(videos))).backward()
        return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}

    assert gap(draw(3), draw(None)) < 1e-9


def test_only_one_chunk_s_activations_are_alive(make: Callable[..., Method]) -> None:
    def most_alive(chunk: int | None) -> tuple[int, int]:
        method = make("clip4clip-seqTransf", chunk)
        alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        counts = []

        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            alive.add(output)
            counts.append(sum(len(x) for x in alive))

        assert isinstance(method.encoders[0], CLIPEncoder)
        method.encoders[0].clip.visual.transformer.resblocks[0].mlp[0].register_forward_hook(note)
        loss = loss_of(method, pairs())
        gc.collect()
        kept = sum(len(x) for x in alive)
        loss.backward()
        return kept, max(counts)

    frames = 8 * FRAMES
    assert most_alive(None) == (frames, frames)
    assert most_alive(2) == (0, 2 * FRAMES)


class Kept(Callback):
    """Keeps clipped gradients' norms and the types that a step computes in."""

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        linear = pl_module.encoders[0].clip.visual.transformer.resblocks[0].mlp[0]
        linear.register_forward_hook(lambda module, inputs, output: self.types.add(output.dtype))


class Given(VideoTextDataModule):
    """Gives random batches."""

    def train_dataloader(self) -> Any:
        return DataLoader([pairs(seed=s) for s in range(4)], batch_size=None)  # type: ignore[arg-type]


def fit(method: Method, data: Any, *callbacks: Callback, **settings: Any) -> tuple[Trainer, Kept]:
    kept = Kept()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        callbacks=[kept, *callbacks], enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        **settings,
    )  # fmt: skip
    trainer.fit(method, data)
    return trainer, kept


@pytest.fixture
def data(make_data: Callable[..., Any]) -> Given:
    base = make_data()
    base.__class__ = Given
    return base


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_clip_val": 0.01}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}],
    ids=["plain", "clipped", "accumulated"],
)
def test_steps_in_chunks_are_the_steps_of_the_trainer(
    make: Callable[..., Method], data: Given, settings: dict[str, Any]
) -> None:
    weights = []
    for chunk in (None, 3):
        method = make("tc_mgc", chunk).double()
        trainer, _ = fit(method, data, **settings)
        assert trainer.global_step == 4 // settings.get("accumulate_grad_batches", 1)
        weights.append(method.state_dict())
    start = make("tc_mgc").double().state_dict()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(start[n], v) for n, v in weights[0].items())


@pytest.mark.parametrize("chunk", [None, 3])
def test_mixed_precision_keeps_weights_and_optimiser_in_float32(
    make: Callable[..., Method], data: Given, chunk: int | None
) -> None:
    method = make("tc_mgc", chunk)
    trainer, kept = fit(method, data, precision="bf16-mixed", gradient_clip_val=1.0)
    assert kept.types == {torch.bfloat16}  # computed low, also when chunks are computed again
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in method.parameters() if p.grad is not None} == {torch.float32}
    states = [s for state in trainer.optimizers[0].state.values() for s in state.values()]
    assert len(states) >= 2 * len(list(method.parameters()))
    assert {s.dtype for s in states} == {torch.float32}


class Clipped(Callback):
    """Keeps the norms of the gradients that steps are made with, and whether the optimiser is the fused one."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.fused: set[bool] = set()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(self._note)

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        self.fused |= {bool(group["fused"]) for group in optimizer.param_groups}


def scaled(scale: float = 512.0) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ({}, True),
        ({"gradient_clip_val": 1e-3}, True),
        ({"precision": "bf16-mixed"}, True),
        ({"precision": "bf16-mixed", "gradient_clip_val": 1e-3}, True),
        ({"plugins": scaled}, False),
        ({"plugins": scaled, "gradient_clip_val": 1e-3}, False),
    ],
    ids=["32", "32-clipped", "bf16", "bf16-clipped", "fp16", "fp16-clipped"],
)
def test_steps_are_clipped_and_fused_unless_losses_have_a_scale(
    make: Callable[..., Method], data: Given, settings: dict[str, Any], fused: bool
) -> None:
    method, clipped = make("clip4clip-seqTransf"), Clipped()
    start = {name: weight.clone() for name, weight in method.state_dict().items()}
    fit(method, data, clipped, **{k: v() if callable(v) else v for k, v in settings.items()})
    assert clipped.fused == {fused}
    assert len(clipped.norms) == 4
    expected = 1e-3 if "gradient_clip_val" in settings else None
    for norm in clipped.norms:  # of gradients without the loss's scale
        assert norm == pytest.approx(1e-3, rel=1e-2) if expected else norm < 50
    assert any(not torch.equal(start[n], v) for n, v in method.state_dict().items())
    assert all(torch.isfinite(v).all() for v in method.state_dict().values())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every graph that torch.compile made of a module, whether that was for training; they run as they are."""
    seen: list[bool] = []
    plain = nn.Module.compile

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        seen.append(torch.is_grad_enabled())
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: plain(module, backend=backend, **options))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
def test_compiled_encoders_train_the_same_weights_and_are_not_compiled_for_evaluation(
    make: Callable[..., Method], data: Given, compiled: list[bool], chunk: int | None
) -> None:
    weights = []
    for setting in (False, True):
        method = make("clip4clip-seqTransf", chunk)
        method.optimizer_options = replace(method.optimizer_options, compile_encoders=setting)
        fit(method, data)
        assert bool(compiled) == setting
        with torch.no_grad():
            method.eval().validation_step(pairs(5).video, 0)
        assert all(compiled)
        weights.append(method.state_dict())
    assert list(weights[0]) == list(weights[1])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6, msg=name)


def test_compiling_without_a_compiler_is_refused(
    make: Callable[..., Method], data: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make("clip4clip-seqTransf")
    method.optimizer_options = replace(method.optimizer_options, compile_encoders=True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match="needs a C compiler"):
        fit(method, data)


def test_chunks_in_mixed_precision_add_up_in_float32(make: Callable[..., Method]) -> None:
    def error(chunk: int | None) -> float:
        method = make("clip4clip-seqTransf", chunk)
        batch = pairs(32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(method, batch)
        loss.backward()
        return gap({n: p.grad for n, p in method.named_parameters() if p.grad is not None}, exact)

    exact = gradients(make("clip4clip-seqTransf"), pairs(32))
    assert 0 < error(1) < 1.2 * error(None)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_holds_a_pair_at_least(make: Callable[..., Method], chunk: int) -> None:
    with pytest.raises(ConfigError, match=f"loss_chunk is {chunk}; at least 1"):
        make("tc_mgc", chunk)
