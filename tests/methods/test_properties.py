"""Properties that every method has, over random features of small random encoders.

Methods are those that `experiments/method/*.yaml` name; `--experiments FOLDER` names another folder. A method is tried
as its file builds it, with what it declares as `tested_with`, and in its variants: every other value of each argument
that is a choice (`Literal`, `bool`), no item of a list of choices, and frame encoders that train or are frozen. What
the method refuses is no variant, nor is what reads the ground truth.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from tvr_lightning import methods
from tvr_lightning.config.compose import compose, experiments_in
from tvr_lightning.config.objects import class_of
from tvr_lightning.encoders import BERT_PRESETS, PRESETS, VGG_PRESETS, BERTSize, CLIPSize, VGGSize
from tvr_lightning.encoders.base import Encoder, FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import score_all
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.types import TensorRows, TextInput, VideoInput, VideoTextBatch

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WORDS, FRAMES = 7, 5
TINY = (
    (PRESETS, CLIPSize(image_size=32, patch_size=16, image_width=32, image_layers=1, image_heads=2,
                       text_width=32, text_layers=1, text_heads=2, embed_dim=32)),
    (VGG_PRESETS, VGGSize(image_size=32, blocks=((8,), (16,)), pooled=2, hidden_dim=32, embed_dim=24)),
    (BERT_PRESETS, BERTSize(width=16, layers=1, heads=2, mlp_width=32, vocabulary_size=500, positions=16, dropout=0.0)),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method in one variant.

    Attributes:
        file: of `experiments/method`.
        argument: the constructor argument that differs, `graph` or `encoder.freeze`; empty for the method as it is.
        value: its value.
        frozen: whether features of frozen frames can be kept.
    """

    file: Path
    argument: str = ""
    value: Any = None
    frozen: bool = False

    def __str__(self) -> str:
        return f"{self.file.stem}-{self.argument}={self.value}" if self.argument else self.file.stem

    def part(self) -> dict[str, Any]:
        """The method as the file describes it, with the smallest encoders and what differs."""
        part = compose(self.file)["model"]
        arguments = part.setdefault("init_args", {})
        arguments |= getattr(class_of(part), "tested_with", {})
        for value in arguments.values():
            kind = class_of(value)
            if kind is not None and issubclass(kind, Encoder):
                value["init_args"] = {**value.get("init_args", {}), **kind.smallest}
                if issubclass(kind, TextEncoder):
                    value["init_args"]["context_length"] = WORDS
        encoder, _, name = self.argument.rpartition(".")
        if name:
            (arguments[encoder]["init_args"] if encoder else arguments)[name] = self.value
        return part

    def build(self) -> RetrievalModule[Any, Any]:
        """Builds it; the suite's own encoders are even smaller than their smallest."""
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of methods that read the ground truth: they are left out
            for presets, size in TINY:
                patch.setitem(presets, "tiny", size)
            model = instantiate(self.part())
        assert isinstance(model, RetrievalModule), self.file
        for parameter in model.parameters():  # away from the special points of initialisation
            if parameter.ndim > 1:
                parameter.data += 0.02 * torch.randn_like(parameter)
        return model.eval()


def instantiate(part: dict[str, Any]) -> Any:
    kind = class_of(part)
    assert kind is not None, f"{part['class_path']} cannot be imported"
    arguments = {k: instantiate(v) if class_of(v) else v for k, v in part["init_args"].items() if k != "optimizer"}
    return kind(**arguments)


def choices(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments that are choices, with each value that is not the present one."""
    kind: Any = class_of(part)
    parameters = inspect.signature(kind).parameters
    for name, hint in get_type_hints(kind.__init__).items():
        if name not in parameters:
            continue
        present = part["init_args"].get(name, parameters[name].default)
        values: Sequence[Any] = ()
        if hint is bool or get_origin(hint) is Literal:
            values = get_args(hint) or (False, True)
        elif get_origin(hint) is Sequence and get_origin(get_args(hint)[0]) is Literal:
            values = ([],)
        yield from ((name, value) for value in values if value != present)


@cache
def cases_of(file: Path) -> list[Case]:
    plain = Case(file)
    model, part = plain.build(), plain.part()
    frozen = [encoder.frames_frozen for encoder in model.encoders if isinstance(encoder, FrameEncoder)]
    changes = [("", None), *choices(part)]
    for name, value in part["init_args"].items():
        kind = class_of(value)
        if kind is not None and issubclass(kind, FrameEncoder):
            changes += [(f"{name}.{switch}", on) for switch, on in choices(value) if isinstance(on, bool)]
    cases: list[Case] = []
    for argument, value in changes:
        case = Case(file, argument, value)
        try:
            model = case.build()
        except ConfigError:  # no variant of this method
            continue
        now = [encoder.frames_frozen for encoder in model.encoders if isinstance(encoder, FrameEncoder)]
        encoder, dot, _ = argument.partition(".")
        done = [c for c in cases if c.argument.startswith(f"{encoder}.")]  # one switch of an encoder is enough
        if not model.reads_ground_truth and not (dot and (done or now == frozen)):
            cases.append(replace(case, frozen=model.frozen_video() is not None))
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        files = sorted((metafunc.config.getoption("experiments") / "method").glob("*.yaml"))
        cases = [case for file in files for case in cases_of(file)]
        if "kept" in metafunc.function.__name__:
            cases = [case for case in cases if case.frozen]
        metafunc.parametrize("variant", cases, indirect=True, ids=str, scope="module")


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> RetrievalModule[Any, Any]:
    return request.param.build()


@pytest.fixture
def method(variant: RetrievalModule[Any, Any]) -> RetrievalModule[Any, Any]:
    torch.manual_seed(0)
    return copy.deepcopy(variant)


def test_every_method_has_an_experiment(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("experiments")
    named = {compose(file)["model"]["class_path"] for file in (folder / "method").glob("*.yaml")}
    assert named
    assert named <= {compose(folder / f"{name}.yaml")["model"]["class_path"] for name in experiments_in(folder)}


def test_every_method_of_the_suite_is_tried() -> None:
    modules = [import_module(f"{methods.__name__}.{m.name}") for m in iter_modules(methods.__path__)]
    found = [c for m in modules for c in vars(m).values() if inspect.isclass(c) and issubclass(c, RetrievalModule)]
    files = list((EXPERIMENTS / "method").glob("*.yaml"))
    tried = {class_of(compose(file)["model"]) for file in files}
    assert tried == {c for c in found if not inspect.isabstract(c)}
    assert {file.stem for file in files} == {c.__module__.rpartition(".")[2] for c in tried if c}
    for file in files:
        assert any(case.frozen for case in cases_of(file))


def random_text(method: RetrievalModule[Any, Any], count: int, seed: int = 1, words: int = WORDS) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 400, (count, words), generator=generator)
    lengths = torch.randint(3, WORDS + 1, (count,), generator=generator)
    mask = torch.arange(words) < lengths[:, None]
    vocabulary = min(encoder.vocabulary_size for encoder in method.encoders if isinstance(encoder, TextEncoder))
    tokens[torch.arange(count), lengths - 1] = vocabulary - 1  # where CLIP has its end
    index = torch.arange(count)
    # every token between start and end is a word of its own
    place = torch.arange(words)
    word = torch.where((place > 0) & (place < lengths[:, None] - 1), place - 1, -1)
    return TextInput(tokens.masked_fill(~mask, 0), mask, index, index, word)


def random_video(method: RetrievalModule[Any, Any], count: int, seed: int = 2) -> VideoInput:
    generator, size = torch.Generator().manual_seed(seed), method.image_size
    noise = torch.randint(0, 192, (count, FRAMES, 3, size, size), generator=generator, dtype=torch.uint8)
    # each video has its colour: the mean of mere noise is the same everywhere
    frames = noise + torch.randint(0, 64, (count, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames * mask[..., None, None, None], mask, torch.arange(count))


def features(method: RetrievalModule[Any, Any], texts: int, videos: int) -> tuple[TensorRows, TensorRows]:
    with torch.no_grad():
        return method.encode_text(random_text(method, texts)), method.encode_video(random_video(method, videos))


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
    assert torch.bfloat16 in reduced or not reduced & {torch.float32}
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
    text, video = random_text(method, 8), random_video(method, 8)
    best = 0.0
    for rate in (2e-3, 5e-3):  # at either: methods differ
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
