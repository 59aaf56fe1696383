"""Encoders that are taken out of a run into another method, and the vocabulary that weights were trained with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning import load_experiment, load_run
from tvr_lightning.commands.main import main
from tvr_lightning.encoders import BERTEncoder, CLIPEncoder, VGGEncoder
from tvr_lightning.encoders.base import FrameEncoder
from tvr_lightning.encoders.kept import kept_computation
from tvr_lightning.errors import CheckpointError, ConfigError
from tvr_lightning.run.results import read_run

from ..kinds import first_fast
from ..small_runs import short_run


@pytest.fixture(scope="module")
def runs(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of CLIP4Clip, one of LEAN and one of SPTCH, which has two BERTs."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("clip4clip_shapes", "lean_shapes", "sptch_shapes_16"):
        extra = ["--trainer.max_epochs=2"] if "sptch" in name else []
        assert main(["fit", *short_run(name, shapes_root, folder, *extra)]) == 0
    return folder


@pytest.fixture(scope="module")
def other_words(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos under captions with other words."""
    root = tmp_path_factory.mktemp("other") / "shapes"
    shutil.copytree(shapes_root, root)
    file = root / "MSRVTT_data.json"
    text = file.read_text()
    for word, other in {"red": "crimson", "blue": "azure", "circle": "disk", "left": "west"}.items():
        text = re.sub(rf"\b{word}\b", other, text)
    assert text != file.read_text()
    file.write_text(text)
    return root


def content_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def weights_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def changed(run: Path, folder: Path, **parts: Any) -> Path:
    """The run's checkpoint with other parts."""
    file = folder / "changed.ckpt"
    torch.save({**weights_of(run), **parts}, file)
    return file


@pytest.mark.slow
def test_clip_goes_from_clip4clip_to_tc_mgc(runs: Path, shapes_root: Path, tmp_path: Path) -> None:
    source = runs / "clip4clip_shapes" / "a"
    words = short_run("tc_mgc_shapes", shapes_root, tmp_path, f"--model.encoder.from_pretrained={source}")
    assert main(["fit", *words, "--model.encoder.freeze=true"]) == 0
    run = tmp_path / "tc_mgc_shapes" / "a"
    begun, end = weights_of(source)["state_dict"], weights_of(run)["state_dict"]
    own = {name for name in begun if name.startswith("encoder.")}
    assert own == {name for name in end if name.startswith("encoder.")}
    assert all(torch.equal(begun[name], end[name]) for name in own)
    content = content_of(run)
    assert content["encoder"] == "tiny of clip4clip_shapes/a"
    said = content["trained"]["encoders_from"]["encoder"]
    assert said["checkpoint"] == str(source / "checkpoints" / "last.ckpt")
    assert (said["dataset"], said["steps"], said["encoder"]) == ("shapes", 3, "encoder")
    assert read_run(run).marks == [f"starts from weights of shapes {said['protocol']}"]
    # a later test of its weights says the same, and needs the other run no more
    moved = source.with_name("moved")
    source.rename(moved)
    try:
        assert main(["test", str(run), "--run_id=t"]) == 0
    finally:
        moved.rename(source)
    again = content_of(run.with_name("t"))
    assert again["metrics"] == content["metrics"]
    assert again["encoder"] == content["encoder"]
    assert again["trained"]["encoders_from"] == content["trained"]["encoders_from"]
    assert read_run(run.with_name("t")).marks == read_run(run).marks
    # from the second run the encoder goes on under the name of that one
    assert CLIPEncoder("tiny", str(run)).name == "tiny of tc_mgc_shapes/a"


@pytest.mark.slow
def test_a_run_knows_which_videos_its_encoder_has_seen(runs: Path, tmp_path: Path) -> None:
    seen = torch.cat([weights_of(runs / "clip4clip_shapes" / "a")["seen"], torch.tensor([7])])
    file = changed(runs / "clip4clip_shapes" / "a", tmp_path, seen=seen)
    model = load_experiment("tc_mgc_shapes", [f"model.encoder.from_pretrained={file}"]).model
    assert model.seen is not None
    assert model.seen.tolist() == sorted(set(seen.tolist()))
    assert 7 in model.seen.tolist()


def test_clip_comes_with_all_that_it_computes(runs: Path) -> None:
    source = runs / "clip4clip_shapes" / "a"
    model = load_run(source).model
    for path in (source, source / "checkpoints" / "last.ckpt", f"{source}#encoder"):
        encoder = CLIPEncoder("tiny", str(path))
        assert encoder.computation == model.encoders[0].computation
        assert encoder.pretrained
        assert encoder.logit_scale_init == pytest.approx(float(model.logit_scale.log.detach().exp()))
        tokens = torch.randint(1, 400, (2, 32))
        mask = torch.ones(2, 32, dtype=torch.bool)
        with torch.no_grad():
            found, own = (e.eval().encode_text(tokens, mask)[0] for e in (encoder, model.encoders[0]))
        assert torch.equal(found, own)


@pytest.mark.slow
def test_bert_and_vgg_go_from_lean_to_mean_pooling_with_their_vocabulary(
    runs: Path, other_words: Path, tmp_path: Path
) -> None:
    source = runs / "lean_shapes" / "a"
    taken = [f"--model.{name}_encoder.from_pretrained={source}" for name in ("video", "text")]
    assert main(["fit", *short_run("mean_pool_shapes", other_words, tmp_path, *taken, "--data.max_words=20")]) == 0
    run = tmp_path / "mean_pool_shapes" / "a"
    assert content_of(run)["encoder"] == "tiny of lean_shapes/a + tiny of lean_shapes/a"
    assert set(content_of(run)["trained"]["encoders_from"]) == {"video_encoder", "text_encoder"}
    assert weights_of(run)["vocabulary"] == weights_of(source)["vocabulary"]
    assert "crimson" not in weights_of(run)["vocabulary"]["pieces"]
    assert load_run(run).data.tokenizer.learned() == weights_of(source)["vocabulary"]
    # the public way of building it restores the vocabulary too
    words = [word.removeprefix("--") for word in taken]
    settings = [w for w in short_run("mean_pool_shapes", other_words, tmp_path)[2:] if "from_pretrained" not in w]
    exp = load_experiment("mean_pool_shapes", [*settings, *words])
    assert exp.data.tokenizer.learned() == weights_of(source)["vocabulary"]


def test_a_text_encoder_is_not_read_with_another_vocabulary(
    runs: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    words = [
        f"--model.text_encoder.from_pretrained={runs / 'lean_shapes' / 'a'}",
        f"--data.tokenizer.vocabulary={tmp_path / 'vocab.txt'}",
    ]
    assert main(["fit", *short_run("mean_pool_shapes", shapes_root, tmp_path, *words)]) == 2
    assert "was trained with another vocabulary than data.tokenizer (WordPieces) has here" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.json"))


def test_of_several_encoders_of_a_kind_one_is_named(runs: Path) -> None:
    source = runs / "sptch_shapes_16" / "a"
    with pytest.raises(
        CheckpointError, match=r"several encoders of this kind \(text_encoder, text_hash_encoder\).*a#text_e"
    ):
        BERTEncoder("tiny", str(source))
    state = weights_of(source)["state_dict"]
    for place in ("text_encoder", "text_hash_encoder"):
        encoder = BERTEncoder("tiny", f"{source}#{place}")
        assert encoder.name == "tiny of sptch_shapes_16/a"
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, state[f"{place}.{name}"])
    with pytest.raises(CheckpointError, match=r"has no encoder 'text_encoders'; did you mean text_encoder"):
        BERTEncoder("tiny", f"{source}#text_encoders")
    with pytest.raises(
        CheckpointError, match=r"builds a BERTEncoder, the run has no such encoder \(found: video_encoder"
    ):
        BERTEncoder("tiny", f"{source}#video_encoder")


def test_what_the_run_has_not_is_said(runs: Path, tmp_path: Path) -> None:
    clip, lean = (runs / name / "a" for name in ("clip4clip_shapes", "lean_shapes"))
    with pytest.raises(
        CheckpointError, match=r"builds a VGGEncoder, the run has no such encoder \(found: encoder, CLIPEnc"
    ):
        VGGEncoder("tiny", str(clip))
    with pytest.raises(
        CheckpointError, match=r"builds CLIPEncoder\(.*image_size=48.*the run has encoder, CLIPEncoder\("
    ):
        CLIPEncoder("tiny", str(clip), image_size=48)
    with pytest.raises(CheckpointError, match=r"builds BERTEncoder\(.*the run has video_encoder.*Set `model`, `size`"):
        BERTEncoder("bert_uncased_L-4_H-256_A-4", str(lean))
    empty = tmp_path / "zero_shot" / "a"
    empty.mkdir(parents=True)
    (empty / "config.yaml").write_text("trains: false")
    with pytest.raises(CheckpointError, match=r"the run has no checkpoint .* trains nothing"):
        CLIPEncoder("tiny", str(empty))


def test_a_bare_name_is_a_tag_whatever_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("videos.index", "runs/a/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("trains: false")
    monkeypatch.chdir(tmp_path)
    assert CLIPEncoder("tiny", "shapes").pretrained  # an index in the working directory holds a run's configuration too
    with pytest.raises(CheckpointError, match=r"there is no run runs/a/c; did you mean runs/a/b"):
        CLIPEncoder("tiny", "runs/a/c")


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_in_one_sentence(runs: Path, tmp_path: Path) -> None:
    clip = runs / "clip4clip_shapes" / "a"
    content = weights_of(clip)
    state, entry = content["state_dict"], content["encoders"]["encoder"]
    first = next(name for name in state if name.startswith("encoder.") and state[name].is_floating_point())

    def refuse(message: str, **parts: Any) -> None:
        with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
            CLIPEncoder("tiny", str(changed(clip, tmp_path, **parts)))
        assert "\n" not in str(caught.value)

    refuse("does not say what its encoders compute", encoders={"encoder": 3})
    refuse("does not fit tiny: .*missing", state_dict={n: x for n, x in state.items() if n != first})
    refuse(r"does not fit tiny: .*expected \(", state_dict={**state, first: torch.zeros(1)})
    refuse("does not fit tiny: .*not part of the model", state_dict={**state, "encoder.more": torch.zeros(1)})
    refuse("encoder hold values that are not finite", state_dict={**state, first: state[first] * torch.nan})
    refuse("found torch.float8_e5m2; weights", state_dict={**state, first: state[first].to(torch.float8_e5m2)})
    refuse("holds no weights where they belong", state_dict=list(state))
    config = entry["computation"]["config"]
    for part in ({"embed_dim": 32}, {**config, "text_cfg": {**config["text_cfg"], "heads": 7}}):
        forged = {**entry, "computation": {**entry["computation"], "config": part}}
        refuse(r"describes an impossible encoder|describes no model", encoders={"encoder": forged})
    (tmp_path / "half.ckpt").write_bytes((clip / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        CLIPEncoder("tiny", str(tmp_path / "half.ckpt"), quick_gelu=False)


class Forgetful(FrameEncoder):
    """Asks what a run says, and does not load its weights."""

    def __init__(self, from_pretrained: str | None = None) -> None:
        super().__init__()
        self.embed_dim, self.image_size, self.from_pretrained = 3, 64, from_pretrained
        self.linear = torch.nn.Linear(3, 3)
        kept_computation(self, {})

    def encode_frames(self, frames: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        return self.linear(frames.float().mean((3, 4)) / 255) * frame_mask[..., None]

    def fingerprint(self) -> str:
        return "forgetful"


def test_an_encoder_that_leaves_weights_unloaded_is_refused(runs: Path, shapes_root: Path, tmp_path: Path) -> None:
    kind = f"{Forgetful.__module__}.Forgetful"
    source = runs / "lean_shapes" / "a"
    content = weights_of(source)
    entry = {**content["encoders"]["video_encoder"], "class": kind}
    file = changed(source, tmp_path, encoders={"video_encoder": entry})
    words = [
        w.removeprefix("--") for w in short_run("mean_pool_shapes", shapes_root, tmp_path)[2:] if "video_enc" not in w
    ]
    own = [f"model.video_encoder={kind}", f"model.video_encoder.from_pretrained={file}"]
    with pytest.raises(ConfigError, match=r"Forgetful cannot take its weights from a run"):
        load_experiment("mean_pool_shapes", [*words, *own])


class TestVocabulary:
    """A learnt vocabulary goes with the weights."""

    @pytest.fixture
    def fit(self, other_words: Path, tmp_path: Path) -> Callable[..., int]:
        return lambda command, *more: main([command, *short_run("lean_shapes", other_words, tmp_path, *more)])

    def test_weights_bring_the_run_s_own(self, fit: Callable[..., int], runs: Path, tmp_path: Path) -> None:
        source = runs / "lean_shapes" / "a"
        assert fit("fit", f"--weights={source}") == 0
        begun, end = weights_of(source), weights_of(tmp_path / "lean_shapes" / "a")
        assert end["vocabulary"] == begun["vocabulary"]
        assert end["trained"]["tokenizer"] == begun["trained"]["tokenizer"]
        assert not any(piece in end["vocabulary"]["pieces"] for piece in ("crimson", "azure"))

    @pytest.mark.slow
    def test_so_does_a_test_on_other_captions(self, fit: Callable[..., int], runs: Path, tmp_path: Path) -> None:
        assert fit("test", f"--ckpt_path={runs / 'lean_shapes' / 'a'}", "--run_id=t") == 0
        assert (tmp_path / "lean_shapes" / "t" / "metrics.json").is_file()

    @pytest.mark.slow
    def test_without_it_other_words_are_learnt(self, fit: Callable[..., int], runs: Path, tmp_path: Path) -> None:
        assert fit("fit") == 0
        end = weights_of(tmp_path / "lean_shapes" / "a")
        assert end["vocabulary"] != weights_of(runs / "lean_shapes" / "a")["vocabulary"]

    @pytest.mark.parametrize("setting", ["--ckpt_path", "--weights"])
    @pytest.mark.parametrize("damage", first_fast(["list", "gap", "special", "text"]))
    def test_a_damaged_one_is_refused_in_one_sentence(
        self, fit: Callable[..., int], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str,
        damage: str,
    ) -> None:  # fmt: skip
        source = runs / "lean_shapes" / "a"
        pieces = weights_of(source)["vocabulary"]["pieces"]
        damaged = {
            "list": list(pieces),
            "gap": {piece: token + (token > 9) for piece, token in pieces.items()},
            "special": {piece if piece != "[SEP]" else "x": token for piece, token in pieces.items()},
            "text": {piece: str(token) for piece, token in pieces.items()},
        }[damage]
        file = changed(source, tmp_path, vocabulary={"pieces": damaged})
        assert fit("test" if setting == "--ckpt_path" else "fit", f"{setting}={file}") == 1
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tvr: ")]
        assert error == ["tvr: the checkpoint's vocabulary is damaged: its pieces are not numbered from 0 on"]
        assert not (tmp_path / "lean_shapes").exists()
