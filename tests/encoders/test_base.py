"""What an encoder offers, and encoders and methods from outside the package that use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_lightning import load_experiment
from tvr_lightning.commands.main import main
from tvr_lightning.encoders import CLIPEncoder, DualEncoder, FrameEncoder, TextEncoder
from tvr_lightning.encoders.base import encoders_in
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.mean_pool import MeanPool
from tvr_lightning.run.leakcheck import check_leak
from tvr_lightning.run.smoke import smoke
from tvr_lightning.synthetic.noise import LeakProbe, NoiseEncoder
from tvr_lightning.types import TextInput, VideoInput

ROOT = Path(__file__).parents[2]

ENCODERS = """
from torch import nn

from tvr_lightning.encoders import DualEncoder, FrameEncoder, TextEncoder


class Colours(FrameEncoder):
    def __init__(self, image_size: int = 16, freeze: bool = False) -> None:
        super().__init__()
        self.image_size, self.embed_dim, self.freeze = image_size, 12, freeze
        self.linear = nn.Linear(3, 12).requires_grad_(not freeze)

    def encode_frames(self, frames, frame_mask):
        self.check_frames(frames, frame_mask)
        return self.linear(frames.float().mean((3, 4)) / 255) * frame_mask[..., None]

    def fingerprint(self):
        return f"colours {self.linear.weight.sum():.9f}"


class Table(TextEncoder):
    def __init__(self, context_length: int = 5) -> None:
        super().__init__()
        self.context_length, self.vocabulary_size, self.embed_dim = context_length, 50_000, 20
        self.table = nn.Embedding(50_000, 20)

    def encode_tokens(self, tokens, token_mask):
        self.check_tokens(tokens, token_mask)
        return self.table(tokens) * token_mask[..., None]

    def fingerprint(self):
        return "table"


class Both(DualEncoder):
    def __init__(self, context_length: int = 5, image_size: int = 16) -> None:
        super().__init__()
        self.frames, self.texts = Colours(image_size), Table(context_length)
        self.context_length, self.vocabulary_size, self.image_size = context_length, 50_000, image_size
        self.project, self.embed_dim, self.pretrained = nn.Linear(20, 12), 12, True

    def encode_frames(self, frames, frame_mask):
        return self.frames.encode_frames(frames, frame_mask)

    def encode_text(self, tokens, token_mask):
        words = self.project(self.texts.encode_tokens(tokens, token_mask)) * token_mask[..., None]
        return words.sum(1), words

    def fingerprint(self):
        return "both"
"""

METHOD = """
from torch import nn

from tvr_lightning.encoders import DualEncoder
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import SentenceFeatures


class Nearest(RetrievalModule[SentenceFeatures, SentenceFeatures]):
    def __init__(self, vision: DualEncoder, optimizer: Optimizer = Optimizer(), evaluation: Evaluation = Evaluation()):
        super().__init__(optimizer, evaluation)
        self.vision, self.turn = vision, nn.Linear(vision.embed_dim, vision.embed_dim)

    def encode_video(self, video):
        frames = self.vision.encode_frames(video.frames, video.frame_mask)
        return SentenceFeatures(self.turn(masked_mean(frames, video.frame_mask)))

    def encode_text(self, text):
        return SentenceFeatures(self.vision.encode_text(text.tokens, text.token_mask)[0])

    def score(self, texts, videos):
        return texts.sentence @ videos.sentence.T

    def compute_losses(self, texts, videos, video_index):
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}
"""

EXPERIMENTS = {
    "own_method": """
defaults: [trainer/cpu, data/shapes]
model:
  class_path: outside.methods.Nearest
  init_args:
    vision:
      class_path: tvr_lightning.encoders.CLIPEncoder
      init_args: {model: ViT-B-32, from_pretrained: openai}
""",
    "own_pair": """
defaults: [trainer/cpu, data/shapes]
model:
  class_path: tvr_lightning.methods.clip4clip.CLIP4Clip
  init_args: {num_layers: 1, encoder: {class_path: outside.encoders.Both, init_args: {image_size: 24}}}
""",
    "own_encoders": """
defaults: [trainer/cpu, data/shapes]
model:
  class_path: tvr_lightning.methods.mean_pool.MeanPool
  init_args:
    video_encoder: {class_path: outside.encoders.Colours}
    text_encoder: {class_path: outside.encoders.Table}
""",
}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of experiments beside a package that the suite does not know."""
    for part in ("trainer", "data"):
        shutil.copytree(ROOT / "experiments" / part, tmp_path / "experiments" / part)
    for name, text in EXPERIMENTS.items():
        (tmp_path / "experiments" / f"{name}.yaml").write_text(text)
    (tmp_path / "outside").mkdir()
    for name, text in {"__init__": "", "encoders": ENCODERS, "methods": METHOD}.items():
        (tmp_path / "outside" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments"


@pytest.mark.slow
def test_encoders_and_methods_from_outside_run_and_are_checked(outside: Path) -> None:
    assert smoke([str(outside / f"{name}.yaml") for name in sorted(EXPERIMENTS)]) == 0
    for name in EXPERIMENTS:
        probe = LeakProbe(steps=4, pairs=16, videos=20, texts=30)
        assert not check_leak(["--config", str(outside / f"{name}.yaml")], probe).leaks


def test_what_an_encoder_offers_reaches_data_and_method(outside: Path) -> None:
    pair = load_experiment(outside / "own_pair.yaml", ["model.encoder.image_size=32"])
    assert pair.model.encoders == [pair.model.encoder]  # not what it is itself made of
    assert pair.data.frames.size == pair.model.image_size == 32
    assert pair.model.encoder.context_length == pair.data.tokenizer.context_length == 36
    assert pair.model.encoder.name == "Both"
    frozen = load_experiment(outside / "own_encoders.yaml", ["model.video_encoder.freeze=true"]).model
    kept = frozen.frozen_video()
    assert kept is not None
    assert kept.fingerprint.startswith("colours")
    assert [frozen.train().video_encoder.training, frozen.text_encoder.training] == [False, True]
    assert load_experiment(outside / "own_encoders.yaml").model.frozen_video() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.video_encoder=outside.encoders.Table"], r"outside.encoders.Table does not .*FrameEncoder"),
        (["model.text_encoder=torch.nn.modules.linear.Identity"], r"linear.Identity does not .*TextEncoder"),
        (["model.video_encoder=tvr_lightning.encoders.FrameEncoder"], "abstract"),
    ],
)
def test_what_offers_too_little_is_refused(outside: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(outside / "own_encoders.yaml", settings)


def test_help_and_print_config_know_the_encoders(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(outside / "own_encoders.yaml"), "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "model.text_encoder.context_length: data.max_words" in said
    assert "video_encoder.context_length" not in said
    assert "--model.video_encoder=outside.encoders.Colours" in said
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(outside / "own_encoders.yaml"), "--print_config"])
    assert "class_path: outside.encoders.Colours" in capsys.readouterr().out


class Frames(FrameEncoder):
    """Takes frames of a size."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size, self.embed_dim, self.freeze = image_size, 4, True

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        return frame_mask[..., None].expand(-1, -1, 4).float()

    def fingerprint(self) -> str:
        return f"frames {self.image_size}"


def test_a_pair_beside_a_frame_encoder_is_there_for_its_texts(small_encoder: Callable[..., Any]) -> None:
    model = MeanPool(Frames(48), small_encoder(freeze=True), width=8)
    assert model.image_size == 48
    frozen = model.frozen_video()
    assert frozen is not None
    assert frozen.fingerprint == "frames 48"
    assert [type(e) for e in model.encoders] == [Frames, CLIPEncoder]


@torch.no_grad()
def test_clip_serves_as_both_encoders_of_another_method(small_encoder: Callable[..., Any]) -> None:
    model = MeanPool(small_encoder(), small_encoder(context_length=7), width=8)
    tokens = torch.tensor([[49406, 320, 49407, 0]])
    mask = torch.tensor([[True, True, True, False]])
    at = torch.arange(1)
    texts = model.encode_text(TextInput(tokens, mask, at, at, torch.full_like(tokens, -1)))
    frames = torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)
    videos = model.encode_video(VideoInput(frames, torch.ones(1, 2, dtype=torch.bool), at))
    assert model.score(texts, videos).shape == (1, 1)
    words = model.text_encoder.encode_tokens(tokens, mask)
    assert torch.equal(words, model.text_encoder.encode_text(tokens, mask)[1])
    assert model.frozen_video() is None  # which of two towers the frames go through, the method alone knows


def test_frame_sizes_that_differ_are_named(small_bert: Callable[..., Any]) -> None:
    model = MeanPool(Frames(16), small_bert(context_length=8), width=8)
    model.second = Frames(24)
    with pytest.raises(ConfigError, match=r"MeanPool has no single frame size \(found: 16, 24\)"):
        _ = model.image_size
    assert model.frozen_video() is None
    del model.second, model.video_encoder
    with pytest.raises(ConfigError, match="found: no encoder of frames"):
        _ = model.image_size


def test_encoders_are_found_however_deep(small_encoder: Callable[..., Any]) -> None:
    first, second = small_encoder(), small_encoder()
    module = nn.ModuleDict({"a": first, "b": nn.ModuleList([nn.Linear(2, 2), second])})
    found = encoders_in(module)
    assert [(name, encoder) for _, name, encoder in found] == [("a", first), ("1", second)]
    for number, (parent, name, encoder) in enumerate(found):
        setattr(parent, name, NoiseEncoder(encoder, number))
    assert isinstance(module["b"][1], NoiseEncoder)  # type: ignore[index]


def test_a_frozen_clip_is_named_after_both_towers(small_encoder: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    frozen, image = small_encoder(freeze=True), small_encoder(freeze_image=True)
    image.load_state_dict(frozen.state_dict())
    before = frozen.fingerprint(), image.fingerprint()
    for encoder in (frozen, image):
        encoder.clip.token_embedding.weight.data[7] += 1.0
        encoder.load_state_dict(encoder.state_dict())
    assert frozen.fingerprint() != before[0]
    assert image.fingerprint() == before[1]


def test_the_shipped_encoders_offer_what_their_classes_say(
    small_encoder: Callable[..., Any], small_vgg: Callable[..., Any], small_bert: Callable[..., Any]
) -> None:
    clip, vgg, bert = small_encoder(), small_vgg(), small_bert(context_length=8)
    assert isinstance(clip, DualEncoder)
    assert isinstance(vgg, FrameEncoder)
    assert isinstance(bert, TextEncoder)
    for encoder in (clip, vgg, bert):
        smallest = type(encoder)(**type(encoder).smallest)
        assert (smallest.name, smallest.pretrained) == ("tiny", False)
    assert clip.vocabulary_size == bert.vocabulary_size == 49408
