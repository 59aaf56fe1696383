"""The tiny VGG that learns from generated pictures."""

from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from tvr_lightning import pretraining
from tvr_lightning.cli_data import run_data
from tvr_lightning.encoders.vgg import VGGEncoder
from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.pretraining import HEADS, StillSettings, pretrain_vgg

QUICK = StillSettings(steps=2, batch_size=4)


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT", 8)


def drawn(seed=0, count=40):
    return pretraining._draw(random.Random(seed), count, VGGEncoder("tiny"))


def test_equal_settings_give_equal_weights_whatever_chance_did_before(tmp_path):
    torch.manual_seed(0)
    first = pretrain_vgg(tmp_path / "a" / "vgg.safetensors", QUICK)
    state = torch.random.get_rng_state()
    second = pretrain_vgg(tmp_path / "b.safetensors", QUICK)
    assert torch.equal(state, torch.random.get_rng_state())
    one, two = load_file(first.file), load_file(second.file)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first.accuracy == second.accuracy
    other = load_file(pretrain_vgg(tmp_path / "c.safetensors", StillSettings(2, 4, seed=2)).file)
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])


def test_the_encoder_reads_what_was_trained(tmp_path, monkeypatch):
    kept = {}
    train = pretraining._train

    def keep(encoder, head, settings):
        train(encoder, head, settings)
        kept["encoder"] = encoder

    monkeypatch.setattr(pretraining, "_train", keep)
    made = pretrain_vgg(tmp_path / "vgg.safetensors", QUICK)
    assert set(made.accuracy) == {"shape", *HEADS}
    assert all(0 <= share <= 1 for share in made.accuracy.values())
    encoder = VGGEncoder("tiny", str(made.file))
    assert encoder.pretrained
    assert not any(p.requires_grad for p in encoder.parameters())
    frames, mask = drawn().pixels, torch.ones(40, 1, dtype=torch.bool)
    with torch.no_grad():
        features = encoder.encode_frames(frames, mask)
        assert torch.equal(features, kept["encoder"].encode_frames(frames, mask))
    assert features.std() > 0


def test_a_file_of_the_same_settings_is_kept_and_another_is_made_again(tmp_path, monkeypatch):
    file = tmp_path / "vgg.safetensors"
    made = pretrain_vgg(file, QUICK)
    before = file.stat().st_mtime_ns
    again = pretrain_vgg(file, QUICK)
    assert made.created
    assert not again.created
    assert again.accuracy == made.accuracy
    assert file.stat().st_mtime_ns == before
    assert pretrain_vgg(file, StillSettings(steps=1, batch_size=4)).created
    monkeypatch.setattr(pretraining, "VERSION", pretraining.VERSION + 1)
    assert pretrain_vgg(file, StillSettings(steps=1, batch_size=4)).created


def test_interruption_leaves_nothing_behind_and_what_was_there_untouched(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    file = tmp_path / "vgg.safetensors"
    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_vgg(file, QUICK)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(pretraining, "HELD_OUT", 8)
    pretrain_vgg(file, QUICK)
    content = file.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_vgg(file, StillSettings(steps=1, batch_size=4))
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_other_weights_are_not_overwritten(tmp_path):
    file = tmp_path / "vgg.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(RunError, match="other weights"):
        pretrain_vgg(file, QUICK)
    file.write_bytes(b"no weights")
    with pytest.raises(RunError, match="cannot be read"):
        pretrain_vgg(file, QUICK)
    assert file.read_bytes() == b"no weights"


def test_settings_that_train_nothing(tmp_path):
    with pytest.raises(ConfigError, match="positive"):
        pretrain_vgg(tmp_path / "vgg.safetensors", StillSettings(steps=0))


def test_targets_say_what_the_pictures_show():
    stills = drawn(count=200)
    assert stills.pixels.shape == (200, 1, 3, 64, 64)
    assert stills.pixels.dtype == torch.uint8
    assert stills.there.sum(1).min() >= 0
    assert stills.there.sum(1).max() == 2
    shown = stills.classes[stills.there]
    for classes, column in zip(HEADS.values(), shown.unbind(1), strict=True):
        assert column.min() == 0
        assert column.max() == classes - 1
    # a large object covers more of its picture than a small one
    one = stills.there.sum(1) == 1
    size = stills.classes[one][stills.there[one]][:, 0]
    pictures = stills.pixels[one, 0].int()
    covered = ((pictures - pictures[:, :, :1, :1]).abs().sum(1) > 60).flatten(1).double().mean(1)
    assert covered[size == 3].mean() > 2 * covered[size == 1].mean()


def test_the_command_prints_the_accuracy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretraining, "pretrain_vgg", lambda file: pretrain_vgg(file, QUICK))
    file = tmp_path / "vgg.safetensors"
    assert run_data(["shapes-vgg", "--file", str(file)]) == 0
    assert "made in" in (said := capsys.readouterr().out)
    assert "held-out pictures: shape" in said
    assert run_data(["shapes-vgg", "--file", str(file)]) == 0
    assert "already there" in capsys.readouterr().out
