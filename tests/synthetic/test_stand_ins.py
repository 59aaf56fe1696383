"""The tiny encoders that learn from generated stills."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tvr_lightning.commands.main import main
from tvr_lightning.encoders import CLIPEncoder, VGGEncoder
from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.synthetic import stand_ins as pretraining
from tvr_lightning.synthetic.rendering import PALETTE, Pose
from tvr_lightning.synthetic.scenes import Thing
from tvr_lightning.synthetic.stand_ins import CLIPSettings, VGGSettings, clip, pretrain_clip, pretrain_vgg, vgg
from tvr_lightning.synthetic.stand_ins.stills import Placed, draw_stills

QUICK = {
    "vgg": (pretrain_vgg, VGGSettings(steps=2, batch_size=4), vgg),
    "clip": (pretrain_clip, CLIPSettings(steps=2, batch_size=4), clip),
}
WEIGHT = {"vgg": "features.0.weight", "clip": "visual.conv1.weight"}


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch):
    for module in (vgg, clip):
        monkeypatch.setattr(module, "HELD_OUT", 8)


@pytest.fixture(params=sorted(QUICK))
def name(request):
    return request.param


def drawn(seed=0, count=40):
    return vgg._draw(random.Random(seed), count, VGGEncoder("tiny"))


def test_equal_settings_give_equal_weights_whatever_chance_did_before(tmp_path, name):
    pretrain, quick, _ = QUICK[name]
    torch.manual_seed(0)
    first = pretrain(tmp_path / "a" / "weights.safetensors", quick)
    state = torch.random.get_rng_state()
    second = pretrain(tmp_path / "b.safetensors", quick)
    assert torch.equal(state, torch.random.get_rng_state())
    one, two = load_file(first.file), load_file(second.file)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert first.accuracy == second.accuracy
    other = load_file(pretrain(tmp_path / "c.safetensors", replace(quick, seed=2)).file)
    assert not torch.equal(one[WEIGHT[name]], other[WEIGHT[name]])


def test_the_vgg_encoder_reads_what_was_trained(tmp_path):
    made = pretrain_vgg(tmp_path / "vgg.safetensors", VGGSettings(steps=2, batch_size=4))
    assert set(made.accuracy) == {"shape", "size"}
    assert all(0 <= share <= 1 for share in made.accuracy.values())
    encoder = VGGEncoder("tiny", str(made.file))
    assert encoder.pretrained
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder.features[0].weight, load_file(made.file)["features.0.weight"])
    with torch.no_grad():
        assert encoder.encode_frames(drawn().pixels, torch.ones(40, 1, dtype=torch.bool)).std() > 0


def test_the_clip_encoder_reads_what_was_trained(tmp_path):
    made = pretrain_clip(tmp_path / "clip.safetensors", CLIPSettings(steps=2, batch_size=4))
    assert set(made.accuracy) == {"caption"}
    assert 0 <= made.accuracy["caption"] <= 1
    encoder = CLIPEncoder("tiny", str(made.file), context_length=36)
    assert encoder.pretrained
    assert torch.equal(encoder.clip.visual.conv1.weight, load_file(made.file)["visual.conv1.weight"])
    stills = draw_stills(random.Random(0), 40, 4, (8, 14), encoder.image_size)
    with torch.no_grad():
        features = encoder.encode_frames(stills.pixels, torch.ones(40, 1, dtype=torch.bool))
    # temporal layers that start as the text tower's see positions beside frames
    assert features.std() == pytest.approx(encoder.text_positions.std().item(), rel=0.3)


@pytest.mark.slow
def test_clip_learns_which_caption_is_which(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "HELD_OUT", 64)
    made = pretrain_clip(tmp_path / "clip.safetensors", CLIPSettings(steps=200, batch_size=64))
    assert made.accuracy["caption"] > 0.2  # untrained 1 in 64


def test_a_file_of_the_same_settings_is_kept_and_another_is_made_again(tmp_path, monkeypatch, name):
    pretrain, quick, module = QUICK[name]
    file = tmp_path / "weights.safetensors"
    made = pretrain(file, quick)
    before = file.stat().st_mtime_ns
    again = pretrain(file, quick)
    assert made.created
    assert not again.created
    assert again.accuracy == made.accuracy
    assert file.stat().st_mtime_ns == before
    assert pretrain(file, replace(quick, steps=1)).created
    monkeypatch.setattr(module, "VERSION", module.VERSION + "x")
    assert pretrain(file, replace(quick, steps=1)).created


def test_interruption_leaves_nothing_behind_and_what_was_there_untouched(tmp_path, monkeypatch, name):
    pretrain, quick, _ = QUICK[name]

    def interrupted(*_):
        raise KeyboardInterrupt

    file = tmp_path / "weights.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(file, quick)
    assert list(tmp_path.iterdir()) == []
    pretrain(file, quick)
    content = file.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(file, replace(quick, steps=1))
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_other_weights_are_not_overwritten(tmp_path, name):
    pretrain, quick, _ = QUICK[name]
    file = tmp_path / "weights.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(RunError, match="other weights"):
        pretrain(file, quick)
    file.write_bytes(b"no weights")
    with pytest.raises(RunError, match="cannot be read"):
        pretrain(file, quick)
    assert file.read_bytes() == b"no weights"


def test_the_weights_of_one_encoder_do_not_count_as_those_of_another(tmp_path):
    file = pretrain_vgg(tmp_path / "weights.safetensors", VGGSettings(steps=1, batch_size=4)).file
    same = CLIPSettings(**vars(VGGSettings(steps=1, batch_size=4)))
    assert pretrain_clip(file, same).created


def test_settings_that_train_nothing(tmp_path, name):
    pretrain, quick, _ = QUICK[name]
    with pytest.raises(ConfigError, match="positive"):
        pretrain(tmp_path / "weights.safetensors", replace(quick, steps=0))


def test_targets_say_what_the_pictures_show():
    stills = drawn(count=200)
    assert stills.pixels.shape == (200, 1, 3, 64, 64)
    assert stills.pixels.dtype == torch.uint8
    assert stills.there.sum(1).min() >= 0
    assert stills.there.sum(1).max() == 2
    shown = stills.size[stills.there]
    assert (shown.min(), shown.max()) == (0, 3)
    # a large object covers more of its picture than a small one
    one = stills.there.sum(1) == 1
    size = stills.size[one][stills.there[one]]
    pictures = stills.pixels[one, 0].int()
    covered = ((pictures - pictures[:, :, :1, :1]).abs().sum(1) > 60).flatten(1).double().mean(1)
    assert covered[size == 3].mean() > 2 * covered[size == 1].mean()


def test_a_still_caption_says_what_is_to_be_seen_largest_first():
    def placed(shape, colour, size, x, y, **changes):
        pose = Pose(x, y, 1.0, 0.0, PALETTE[colour], True)._replace(**changes)
        return Placed(Thing(shape, colour, size, x, y), pose)

    def write(*objects):
        return clip.write_still_caption(list(objects), "dark", random.Random(3))

    small, large = placed("triangle", "red", "small", 20, 20), placed("star", "blue", "large", 80, 48)
    said = write(small, large)
    assert said.index("blue star at the middle right") < said.index("red triangle at the top left")
    assert "dark" in said or "black" in said
    assert write(placed("star", "blue", "large", 80, 48, visible=False)).startswith("nothing ")
    assert "tilted" in write(placed("star", "blue", "large", 80, 48, angle=1.0))
    assert "tilted" not in write(placed("circle", "blue", "large", 80, 48, angle=1.0))
    recoloured = placed("star", "blue", "large", 80, 48)
    recoloured = recoloured._replace(pose=recoloured.pose._replace(colour=PALETTE["green"]))
    assert " green star" in write(recoloured)
    grown = write(placed("star", "blue", "large", 80, 48, scale=1.6))
    assert "huge" in grown or "giant" in grown


@pytest.mark.parametrize(("name", "said"), [("vgg", "pictures: shape"), ("clip", "pictures: caption")])
def test_the_command_prints_the_accuracy(tmp_path, monkeypatch, capsys, name, said):
    pretrain, quick, _ = QUICK[name]
    monkeypatch.setattr(pretraining, f"pretrain_{name}", lambda file: pretrain(file, quick))
    file = tmp_path / "weights.safetensors"
    assert main(["data", f"shapes-{name}", "--file", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "made in" in printed
    assert said in printed
    assert main(["data", f"shapes-{name}", "--file", str(file)]) == 0
    assert "already there" in capsys.readouterr().out
