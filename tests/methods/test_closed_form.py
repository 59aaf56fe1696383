"""Methods with a closed form: their solutions against sums that are written out, and how a run takes them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from tvr_lightning.methods.cmfh import CMFH
from tvr_lightning.methods.stmh import STMH
from tvr_lightning.nn.hashing.factorisation import collective_factors, ridge, start_values
from tvr_lightning.nn.hashing.topics import TopicWeights, above_middle, topic_factors
from tvr_lightning.run.callbacks.guard import FiniteTraining
from tvr_lightning.run.callbacks.resume import KeepLast
from tvr_lightning.run.checkpoints import AtomicCheckpointIO

from .hashing_cases import BITS, build, codes_of, features_of
from .sptch_cases import STEPS, VIDEOS, Data, texts_of, videos_of

CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
KINDS = [CMFH, STMH]


def inverse(x: Tensor) -> Tensor:
    """By Gauss and Jordan."""
    size = len(x)
    rows = torch.cat([x.clone(), torch.eye(size, dtype=x.dtype)], 1)
    for i in range(size):
        best = i + int(rows[i:, i].abs().argmax())
        rows[[i, best]] = rows[[best, i]]
        rows[i] /= rows[i, i].clone()
        for j in range(size):
            if j != i:
                rows[j] -= rows[j, i].clone() * rows[i]
    return rows[:, size:]


def test_ridge_by_either_matrix() -> None:
    inputs, targets = (torch.randn(9, width, dtype=torch.float64) for width in (5, 3))
    wanted = inverse(inputs.T @ inputs + 0.3 * torch.eye(5, dtype=torch.float64)) @ inputs.T @ targets
    torch.testing.assert_close(ridge(inputs, targets, 0.3), wanted, **CLOSE)
    wide = inputs[:4]  # fewer items than features
    wanted = inverse(wide.T @ wide + 0.3 * torch.eye(5, dtype=torch.float64)) @ wide.T @ targets[:4]
    torch.testing.assert_close(ridge(wide, targets[:4], 0.3), wanted, **CLOSE)


def test_cmfh_s_rounds() -> None:
    video, text = (x - x.mean(0) for x in features_of(25))
    share, mu, norm, bits = 0.3, 5.0, 0.5, 6
    eye = torch.eye(bits, dtype=torch.float64)
    v = start_values(25, bits, 7, video)
    for _ in range(3):
        u = [inverse(s * v.T @ v + norm * eye) @ (s * v.T @ x) for s, x in ((share, video), (1 - share, text))]
        p = []
        for x in (video, text):
            own = torch.eye(x.shape[1], dtype=torch.float64)
            p.append(inverse(mu * x.T @ x + norm * own) @ (mu * x.T @ v))
        left = share * video @ u[0].T + (1 - share) * text @ u[1].T + mu * (video @ p[0] + text @ p[1])
        right = share * u[0] @ u[0].T + (1 - share) * u[1] @ u[1].T + (2 * mu + norm) * eye
        v = left @ inverse(right)
    found = collective_factors(video, text, bits, share, mu, norm, 3, 7)
    for mine, its in zip(found, (v, *u, *p), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-10)


def test_each_round_of_cmfh_lowers_the_objective() -> None:
    video, text = (x - x.mean(0) for x in features_of(25))

    def objective(rounds: int) -> float:
        f = collective_factors(video, text, 6, 0.5, 100.0, 0.01, rounds, 0)
        near = (f.latent - video @ f.video_projection).square().sum()
        near = near + (f.latent - text @ f.text_projection).square().sum()
        rebuilt = 0.5 * (video - f.latent @ f.video_basis).square().sum()
        rebuilt = rebuilt + 0.5 * (text - f.latent @ f.text_basis).square().sum()
        return float(rebuilt + 100 * near + 0.01 * sum(x.square().sum() for x in f))

    values = [objective(rounds) for rounds in range(1, 8)]
    assert all(a > b for a, b in pairwise(values))


def test_cmfh_s_objective_at_its_solution() -> None:
    video, text = centred = tuple(x - x.mean(0) for x in features_of(25))  # as the base gives them
    model = build(CMFH)
    model.learn_from(video, text)
    f = collective_factors(*centred, BITS, 0.5, 100.0, 0.01, 25, 0)
    torch.testing.assert_close(model.hash_video(video).detach(), centred[0] @ f.video_projection, **CLOSE)
    torch.testing.assert_close(model.hash_text(text).detach(), centred[1] @ f.text_projection, **CLOSE)
    texts, videos = codes_of(model, video, text)
    found = {k: float(x.detach()) for k, x in model.compute_losses(texts, videos, torch.arange(25)).items()}
    near = [
        (f.latent - x @ p).square().sum() for x, p in zip(centred, (f.video_projection, f.text_projection), strict=True)
    ]
    rebuilt = [(x - f.latent @ u).square().sum() for x, u in zip(centred, (f.video_basis, f.text_basis), strict=True)]
    assert found == pytest.approx(
        {
            "factorisation": float(sum(rebuilt)) / 2,
            "projection": 100 * float(sum(near)),
            "norms": 0.01 * float(sum(x.square().sum() for x in f)),
        },
        rel=1e-10,
    )


def test_stmh_s_rounds() -> None:
    video, text = features_of(25)
    share, agreement, norm, bits = 0.4, 0.5, 0.01, 6
    eye = torch.eye(bits, dtype=torch.float64)
    g_video = start_values(25, bits, 7, video)
    g_text = torch.zeros(25, bits, dtype=torch.float64)
    for row, values in zip(g_text, start_values(25, bits, 8, video), strict=True):
        for k in sorted(range(bits), key=lambda k: -float(values[k]))[:3]:
            row[k] = 1.0
    certainty = torch.ones(25, dtype=torch.float64)
    for _ in range(3):
        d = torch.diag(certainty)
        f_video = inverse(g_video.T @ d @ g_video + norm / share * eye) @ g_video.T @ d @ video
        f_text = inverse(g_text.T @ g_text + norm / share * eye) @ g_text.T @ text
        r = inverse(g_video.T @ g_video + norm / agreement * eye) @ g_video.T @ g_text
        new = torch.zeros_like(g_video)
        for i in range(25):
            right = share * certainty[i] * f_video @ video[i] + agreement * r @ g_text[i]
            new[i] = inverse(share * certainty[i] * f_video @ f_video.T + agreement * r @ r.T + norm * eye) @ right
        g_video, said = new, new @ r
        g_text = torch.zeros_like(g_text)
        for i in range(25):
            costs = [
                (1 - share) * float((text[i] - f_text[k]).square().sum()) - 2 * agreement * float(said[i, k])
                for k in range(bits)
            ]
            for k in sorted(range(bits), key=lambda k: costs[k])[:3]:
                g_text[i, k] = 1.0
        certainty = share / (2 * (video - g_video @ f_video).norm(dim=1))
    found = topic_factors(video, text, bits, TopicWeights(share, agreement, norm), 3, 7)
    for mine, its in zip(found, (f_video, f_text, r, g_video, g_text), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-9)


def test_stmh_s_codes_have_half_of_their_bits() -> None:
    video, text = features_of(30)
    model = build(STMH)
    model.learn_from(video, text)
    for codes in codes_of(model, video, text):
        assert (codes.codes > 0).sum(1).tolist() == [BITS // 2] * 30
    nearest = torch.cdist(text, model.topics.detach()).argsort(1)[:, : BITS // 2]
    for row, chosen in zip(codes_of(model, video, text)[0].codes, nearest, strict=True):
        assert set(row.gt(0).nonzero()[:, 0].tolist()) == set(chosen.tolist())
    odd = above_middle(torch.tensor([[3.0, 1.0, 2.0]]))
    assert (odd > 0).tolist() == [[True, False, False]]


def test_stmh_s_objective() -> None:
    video, text = features_of(20)
    model = build(STMH)
    model.learn_from(video, text)
    f_video, f_text, r = (x.detach() for x in (model.concepts, model.topics, model.transform))
    eye = torch.eye(BITS, dtype=torch.float64)
    g_video = video @ f_video.T @ inverse(f_video @ f_video.T + 1e-4 / 0.5 * eye)
    said, total = g_video @ r, {"concepts": 0.0, "topics": 0.0, "agreement": 0.0}
    for i in range(20):
        far = [float((text[i] - f_text[k]).square().sum()) for k in range(BITS)]
        costs = [0.5 * far[k] - float(said[i, k]) for k in range(BITS)]
        chosen = sorted(range(BITS), key=lambda k: costs[k])[: BITS // 2]
        total["concepts"] += 0.5 * float((video[i] - g_video[i] @ f_video).norm())
        total["topics"] += 0.5 * sum(far[k] for k in chosen)
        total["agreement"] += 0.5 * sum(((k in chosen) - float(said[i, k])) ** 2 for k in range(BITS))
    total["norms"] = 1e-4 * sum(float(x.square().sum()) for x in (r, g_video, f_video, f_text))
    found = {k: float(x.detach()) for k, x in model.objective(video, text).items()}
    assert found == pytest.approx(total, rel=1e-8)


def fit(
    model: Any, epochs: int = 1, folder: Path | None = None, resume: Path | None = None, **settings: Any
) -> Trainer:
    kept = [] if folder is None else [KeepLast(folder, 1)]
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[FiniteTraining(), *kept], logger=False,
        enable_progress_bar=False, enable_checkpointing=folder is not None, enable_model_summary=False,
        limit_val_batches=0, use_distributed_sampler=False, num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO(), *settings.pop("plugins", ())], **settings,
    )  # fmt: skip
    more: dict[str, Any] = {} if resume is None else {"ckpt_path": str(resume), "weights_only": True}
    trainer.fit(model, Data(), **more)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_puts_the_solution_in_its_place(kind: Any) -> None:
    model = build(kind)
    trainer = fit(model)
    assert trainer.global_step == STEPS
    with torch.no_grad():
        video, text = model.video_source(videos_of(VIDEOS)).float(), model.text_source(texts_of(VIDEOS)).float()
    alone = build(kind)
    if alone.centred:
        alone.video_mean.copy_(video.mean(0))
        alone.text_mean.copy_(text.mean(0))
        video, text = video - video.mean(0), text - text.mean(0)
    alone.learn_from(video, text)  # as the training set's features are gathered
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=name)
    assert set(alone.objective(video.double(), text.double())) | {"loss"} == {
        name.removeprefix("train/") for name in trainer.callback_metrics if not name.endswith(("_step", "_epoch"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_is_the_same(kind: Any, tmp_path: Path) -> None:
    whole = build(kind)
    fit(whole, 2, tmp_path / "whole")
    fit(build(kind), 1, tmp_path / "part")
    resumed = build(kind)
    for parameter in resumed.parameters():
        if parameter.requires_grad:
            parameter.data += 1.0
    trainer = fit(resumed, 2, tmp_path / "part", tmp_path / "part" / "checkpoints" / "last.ckpt")
    assert trainer.global_step == 2 * STEPS
    assert all(torch.equal(x, resumed.state_dict()[name]) for name, x in whole.state_dict().items())


def test_another_seed_begins_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = build(CMFH), build(CMFH)
    fit(first)
    monkeypatch.setattr(Data, "seed", 1)
    fit(second)
    assert not torch.allclose(first.video_projection, second.video_projection)
    assert torch.equal(first.video_mean, second.video_mean)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_move_nothing_whatever_the_precision(kind: Any) -> None:
    plain, scaled = build(kind).float(), build(kind).float()
    fit(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fit(scaled, 2, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], gradient_clip_val=1.0)
    assert all(torch.equal(x, scaled.state_dict()[name]) for name, x in plain.state_dict().items())
