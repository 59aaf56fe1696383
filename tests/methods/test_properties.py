"""Properties that every method has, over random features of small random encoders; see `method_cases.py`.

`--experiments FOLDER` names another folder of methods than the suite's.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import torch

from tvr_lightning import methods
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.config.objects import class_of
from tvr_lightning.evaluation import score_all
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.views import Frame, Maps, Parts, View, Weights, Word
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.run.leakcheck import replace_encoders
from tvr_lightning.types import TextInput, VideoInput, VideoTextBatch

from ..kinds import composed, is_fast, slow_unless
from .method_cases import EXPERIMENTS, cases_of, features, random_text, random_video

# of the others, variants of a method are slow tests; of the long one all but one method of each kind
LONG = ("test_one_batch_can_be_learned",)
VARIED = (
    "test_what_padded_places_hold_changes_nothing",
    "test_every_parameter_receives_a_finite_gradient",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        files = sorted((metafunc.config.getoption("experiments") / "method").glob("*.yaml"))
        cases = [case for file in files for case in cases_of(file)]
        if "kept" in metafunc.function.__name__:
            cases = [case for case in cases if case.frozen]
        varied, long = (metafunc.function.__name__ in names for names in (VARIED, LONG))
        fast = [c for c in cases if (varied or not c.argument) and (is_fast(c.file.stem) or not long)]
        marked = slow_unless(cases, fast)
        metafunc.parametrize("variant", marked, indirect=True, ids=str, scope="module")


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> RetrievalModule[Any, Any]:
    return request.param.build()


@pytest.fixture
def method(variant: RetrievalModule[Any, Any]) -> RetrievalModule[Any, Any]:
    torch.manual_seed(0)
    return copy.deepcopy(variant)


def test_every_method_has_an_experiment(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("experiments")
    named = {composed(file)["model"]["class_path"] for file in (folder / "method").glob("*.yaml")}
    assert named
    assert named <= {composed(folder / f"{name}.yaml")["model"]["class_path"] for name in experiments_in(folder)}


def test_every_method_of_the_suite_is_tried() -> None:
    modules = [import_module(f"{methods.__name__}.{m.name}") for m in iter_modules(methods.__path__)]
    found = [c for m in modules for c in vars(m).values() if inspect.isclass(c) and issubclass(c, RetrievalModule)]
    files = list((EXPERIMENTS / "method").glob("*.yaml"))
    tried = {class_of(composed(file)["model"]) for file in files}
    assert tried == {c for c in found if not inspect.isabstract(c)}
    assert {file.stem for file in files} == {c.__module__.rpartition(".")[2] for c in tried if c}
    for file in files:
        assert any(case.frozen for case in cases_of(file))


@torch.no_grad()
def test_number_of_texts_and_videos_may_differ(method: RetrievalModule[Any, Any]) -> None:
    for counts in ((3, 8), (8, 3), (1, 4), (4, 1)):
        scores = method.score(*features(method, *counts))
        assert scores.shape == counts
        assert torch.isfinite(scores).all()


@torch.no_grad()
def test_a_pair_depends_on_itself_alone(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 6, 5)
    whole = method.score(texts, videos)
    for t, v in ((0, 0), (3, 1), (5, 4)):
        alone = method.score(texts[t : t + 1], videos[v : v + 1])
        torch.testing.assert_close(alone[0, 0], whole[t, v], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_permuting_videos_permutes_columns(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 4, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        method.score(texts, videos[order]), method.score(texts, videos)[:, order], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_what_padded_places_hold_changes_nothing(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(method, 4), random_video(method, 4)
    noise = torch.randint(0, 256, video.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    noisy = replace(video, frames=torch.where(video.frame_mask[..., None, None, None], video.frames, noise))
    plain = method.score(method.encode_text(text), method.encode_video(video))
    torch.testing.assert_close(
        method.score(method.encode_text(text), method.encode_video(noisy)), plain, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_what_it_shows_is_of_the_pair(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(method, 4)[2:3], random_video(method, 4)[1:2]
    noise = torch.randint(0, 256, video.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    noisy = replace(video, frames=torch.where(video.frame_mask[..., None, None, None], video.frames, noise))
    views, again = method.explain(text, video), method.explain(text, noisy)
    assert len({view.name for view in views}) == len(views)
    length, count = int(text.token_mask.sum()), int(video.frame_mask.sum())
    for view, other in zip(views, again, strict=True):
        for label in [x for p in panels_of(view) for x in (*p.rows, *p.columns)]:
            if isinstance(label, Word):
                assert label.tokens
                assert all(0 < token < length - 1 for token in label.tokens)
            elif isinstance(label, Frame):
                assert label.place < count
        for mine, its in zip(numbers_of(view), numbers_of(other), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5, equal_nan=True)
    for panel in (p for view in views for p in panels_of(view) if p.unit in ("weight", "attention")):
        torch.testing.assert_close(panel.values.nansum(1), torch.ones(len(panel.rows)))  # all that is weighed is shown


def panels_of(view: View) -> Sequence[Weights]:
    return view.panels if isinstance(view, Maps) else ()


def numbers_of(view: View) -> list[torch.Tensor]:
    if isinstance(view, Maps):
        return [panel.values for panel in view.panels]
    return list((view.series if isinstance(view, Parts) else view.vectors).values())


@torch.no_grad()
def test_more_padding_changes_nothing(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(method, 4), random_video(method, 4)
    plain = method.score(method.encode_text(text), method.encode_video(video))
    longer = VideoInput(
        torch.cat([video.frames, video.frames[:, :2]], dim=1),
        torch.cat([video.frame_mask, torch.zeros(4, 2, dtype=torch.bool)], dim=1),
        video.index,
    )
    short = int(text.token_mask.sum(1).max())
    shorter = TextInput(
        text.tokens[:, :short], text.token_mask[:, :short], text.index, text.video_index, text.word[:, :short]
    )
    torch.testing.assert_close(
        method.score(method.encode_text(shorter), method.encode_video(longer)), plain, rtol=1e-4, atol=1e-5
    )


def test_chunked_scoring_equals_the_whole(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 7, 5)
    with torch.no_grad():
        whole = method.score(texts, videos)
    for chunk in (1, 2, 3, 100):
        torch.testing.assert_close(score_all(method, texts, videos, chunk_size=chunk), whole, rtol=1e-4, atol=1e-5)


def losses_of(method: RetrievalModule[Any, Any], text: TextInput, video: VideoInput) -> torch.Tensor:
    second = VideoTextBatch(text, video)  # for methods that compare two views
    terms = method.compute_losses(*method.encode(VideoTextBatch(text, video, second)), video.index)
    return torch.stack(list(terms.values())).sum()


def test_every_parameter_receives_a_finite_gradient(method: RetrievalModule[Any, Any]) -> None:
    method.train()
    losses_of(method, random_text(method, 6), random_video(method, 6)).backward()
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_losses_and_their_gradients_are_exact_whatever_the_precision(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(method, 6), random_video(method, 6)
    batch = VideoTextBatch(text, video, VideoTextBatch(text, video))
    exact = copy.deepcopy(method).double()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            features = method.encode(batch)
        losses = method.compute_losses(*features, video.index)
    reduced = {x.dtype for rows in features for x in rows.tensors().values()}
    centred = getattr(method, "centred", False)  # by means in float32: what two sources have in common is most of them
    assert torch.bfloat16 in reduced or not reduced & {torch.float32} or centred
    wide = [rows.map(lambda x: x.double() if x.is_floating_point() else x) for rows in features]
    found, right = (torch.stack(list(x.values())).sum() for x in (losses, exact.compute_losses(*wide, video.index)))
    assert found.item() == pytest.approx(right.item(), rel=1e-4)
    if not right.requires_grad:  # nothing is learned between features and losses
        return
    found.backward()
    right.backward()
    wanted = {name: p.grad for name, p in exact.named_parameters() if p.grad is not None}
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    wanted = {name: x for name, x in wanted.items() if float(x.norm()) > 1e-5 * largest}  # saturated: rounding alone
    for name, parameter in method.named_parameters():
        if name in wanted:
            own, others = parameter.grad.double().flatten(), wanted[name].flatten()
            assert torch.cosine_similarity(own, others, dim=0) > 0.99, name
            assert own.norm() / others.norm() == pytest.approx(1, abs=0.05), name


def test_one_batch_can_be_learned(method: RetrievalModule[Any, Any]) -> None:
    if method.keeps_neighbours:
        replace_encoders(method, 0)  # by noise that differs: features of random encoders are nearly the same
    text, video = random_text(method, 8), random_video(method, 8)
    best = 0.0
    for rate in (5e-3, 2e-3):  # at either: methods differ
        model = copy.deepcopy(method)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for step in range(300):
            model.train()
            optimizer.zero_grad()
            losses_of(model, text, video).backward()
            optimizer.step()
            if step % 5 < 4:
                continue
            model.eval()
            with torch.no_grad():
                scores = model.score(model.encode_text(text), model.encode_video(video))
            best = max(best, ranking_metrics(scores, torch.arange(8))["SumR"])
            if best == pytest.approx(600.0):
                return
    pytest.fail(f"eight pairs are not learned: SumR {best:.1f} at best")


def test_untrained_scores_of_noise_are_chance(method: RetrievalModule[Any, Any]) -> None:
    count, texts, videos = 80, *features(method, 80, 80)
    recall = ranking_metrics(score_all(method, texts, videos), torch.arange(count))["t2v/R@10"]
    chance = 1000 / count
    assert recall == pytest.approx(chance, abs=4 * (chance * (100 - chance) / count) ** 0.5)


def test_evaluation_mode_is_deterministic(method: RetrievalModule[Any, Any]) -> None:
    a, b = (score_all(method, *features(method, 3, 3)) for _ in range(2))
    assert torch.equal(a, b)


@torch.no_grad()
def test_kept_features_of_frozen_frames_replace_the_frames(method: RetrievalModule[Any, Any]) -> None:
    frozen = method.frozen_video()
    assert frozen is not None
    texts, video = method.encode_text(random_text(method, 4)), random_video(method, 3)
    kept = VideoInput(video.frames[..., :0, :0], video.frame_mask, video.index, frozen.encode(video))
    torch.testing.assert_close(
        method.score(texts, method.encode_video(kept)), method.score(texts, method.encode_video(video))
    )
