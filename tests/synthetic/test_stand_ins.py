"""The tiny encoders that learn from generated stills."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.encoders import CLIPEncoder, VGGEncoder
from tvr_lightning.encoders.weights import shipped_weights
from tvr_lightning.errors import CheckpointError, ConfigError, RunError
from tvr_lightning.synthetic.captions import ADJECTIVES, GENERIC, LONE, MOVES, NOUNS, VERBS, WAYS, write_caption
from tvr_lightning.synthetic.rendering import PALETTE, Pose
from tvr_lightning.synthetic.scenes import Thing, draw_scene
from tvr_lightning.synthetic.stand_ins import CLIPSettings, VGGSettings, __main__, clip, clip_recipe, vgg, vgg_recipe
from tvr_lightning.synthetic.stand_ins.files import METADATA
from tvr_lightning.synthetic.stand_ins.stills import Placed, draw_stills

QUICK = {
    "vgg": (vgg_recipe, VGGSettings(steps=2, batch_size=4)),
    "clip": (clip_recipe, CLIPSettings(steps=2, batch_size=4)),
}
WEIGHT = {"vgg": "features.0.weight", "clip": "visual.conv1.weight"}
ENCODERS = {"vgg": VGGEncoder, "clip": CLIPEncoder}


@pytest.fixture
def _few_held_out(monkeypatch):
    for module in (vgg, clip):
        monkeypatch.setattr(module, "HELD_OUT", 8)
    monkeypatch.setattr(clip, "NUM_SPOKEN", 64)


@pytest.fixture(params=sorted(QUICK))
def name(request):
    return request.param


def drawn(seed=0, count=40):
    return vgg._draw(random.Random(seed), count, VGGEncoder("tiny"))


@pytest.mark.usefixtures("_few_held_out")
def test_equal_settings_give_equal_weights_whatever_chance_did_before(tmp_path, name):
    recipe, quick = QUICK[name]
    torch.manual_seed(0)
    first = recipe(quick).make(tmp_path / "a" / "weights.safetensors")
    state = torch.random.get_rng_state()
    second = recipe(quick).make(tmp_path / "b.safetensors")
    assert torch.equal(state, torch.random.get_rng_state())
    one, two = load_file(tmp_path / "a" / "weights.safetensors"), load_file(tmp_path / "b.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert first == second
    recipe(replace(quick, seed=2)).make(tmp_path / "c.safetensors")
    assert not torch.equal(one[WEIGHT[name]], load_file(tmp_path / "c.safetensors")[WEIGHT[name]])


@pytest.mark.usefixtures("_few_held_out")
def test_the_vgg_encoder_reads_what_was_trained(tmp_path):
    file = tmp_path / "vgg.safetensors"
    accuracy = vgg_recipe(VGGSettings(steps=2, batch_size=4)).make(file)
    assert set(accuracy) == {"shape", "size"}
    assert all(0 <= share <= 1 for share in accuracy.values())
    encoder = VGGEncoder("tiny", str(file))
    assert encoder.pretrained
    assert not any(p.requires_grad for p in encoder.parameters())
    assert load_file(file)["features.0.weight"].dtype == torch.float16
    assert torch.equal(encoder.features[0].weight, load_file(file)["features.0.weight"].float())
    with torch.no_grad():
        assert encoder.encode_frames(drawn().pixels, torch.ones(40, 1, dtype=torch.bool)).std() > 0


@pytest.mark.usefixtures("_few_held_out")
def test_the_clip_encoder_reads_what_was_trained(tmp_path):
    file = tmp_path / "clip.safetensors"
    accuracy = clip_recipe(CLIPSettings(steps=2, batch_size=4)).make(file)
    assert set(accuracy) == {"caption"}
    assert 0 <= accuracy["caption"] <= 1
    encoder = CLIPEncoder("tiny", str(file), context_length=36)
    assert encoder.pretrained
    assert torch.equal(encoder.clip.visual.conv1.weight, load_file(file)["visual.conv1.weight"].float())
    stills = draw_stills(random.Random(0), 40, 4, (8, 14), encoder.image_size)
    with torch.no_grad():
        features = encoder.encode_frames(stills.pixels, torch.ones(40, 1, dtype=torch.bool))
    # temporal layers that start as the text tower's see positions beside frames
    assert features.std() == pytest.approx(encoder.text_positions.std().item(), rel=0.3)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_held_out")
def test_clip_learns_which_caption_is_which(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "HELD_OUT", 64)
    accuracy = clip_recipe(CLIPSettings(steps=200, batch_size=64)).make(tmp_path / "clip.safetensors")
    assert accuracy["caption"] > 0.2  # untrained 1 in 64


@torch.no_grad()
def test_shared_rows_keep_the_words_of_the_grammar(tmp_path):
    state = CLIPEncoder("tiny").clip.state_dict() | {"logit_scale": torch.tensor(2.0)}
    table = state["token_embedding.weight"].clone()
    file = tmp_path / "clip.safetensors"
    shared = clip.share_rows(state, [0, 320, 49407])
    assert torch.equal(state["token_embedding.weight"], table)
    save_file(shared, file)
    assert file.stat().st_size < state["token_embedding.weight"].numel() * 4 / 4
    found = CLIPEncoder("tiny", str(file)).clip.token_embedding.weight
    assert torch.equal(found[[0, 320, 49407]], table[[0, 320, 49407]])
    others = torch.ones(len(table), dtype=torch.bool)
    others[[0, 320, 49407]] = False
    torch.testing.assert_close(found[others], table[others].mean(0).expand(len(table) - 3, -1))


def test_a_token_table_that_is_cut_off_is_refused(tmp_path):
    state = dict(clip.share_rows(CLIPEncoder("tiny").clip.state_dict() | {"logit_scale": torch.tensor(2.0)}, [0, 5]))
    state["token_embedding.weight"] = state["token_embedding.weight"][:2]
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"token_embedding\.rows names rows"):
        CLIPEncoder("tiny", str(tmp_path / "clip.safetensors"))


def test_grammar_tokens_are_those_of_all_captions():
    tokens, rng = set(clip.grammar_tokens()), random.Random("others")
    words = [w for group in (NOUNS, ADJECTIVES) for synonyms in group.values() for w in synonyms]
    words += [*GENERIC, *LONE, *(w for pair in (*MOVES, *WAYS.values()) for w in pair)]
    words += [part.format("") for verbs in VERBS.values() for verb in verbs for part in verb]
    words += [write_caption(draw_scene(rng), rng) for _ in range(300)]
    words += clip._draw(rng, 40, CLIPEncoder("tiny"))[1]
    words += ["nothing", "a tilted giant", "at the middle center", "at the bottom", "at the top"]
    assert set(CLIPTokenizer(77)([w for w in words if w.strip()]).tokens.unique().tolist()) <= tokens
    assert len(tokens) < 150


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_shipped_weights_say_what_made_them_and_hold_it(name):
    (file,) = shipped_weights(name, "tiny").values()
    assert file.name == f"{name}-tiny-shapes.safetensors"
    assert file.stat().st_size < 3e6
    recipe, _ = QUICK[name]
    with safe_open(file, framework="pt") as opened:
        made = json.loads(opened.metadata()[METADATA])
    assert made["settings"] == {"version": recipe().version, **asdict(recipe().settings)}
    measured = recipe().measure(file)
    assert measured == pytest.approx(made["accuracy"], abs=0.01)
    assert min(measured.values()) > {"clip": 0.2, "vgg": 0.9}[name]  # a caption out of 256, a shape or size
    encoder = ENCODERS[name]("tiny", "shapes")
    assert encoder.pretrained
    state = encoder.state_dict()
    assert all(x.dtype == torch.float32 for x in state.values())


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_unknown_weights_list_the_known(name, tmp_path):
    with pytest.raises(ConfigError, match=r"shape'.*: shapes|shape'.*takes shapes"):
        ENCODERS[name]("tiny", "shape")
    with pytest.raises(CheckpointError, match=r"none.safetensors.*shapes"):
        ENCODERS[name]("tiny", str(tmp_path / "none.safetensors"))


@pytest.mark.usefixtures("_few_held_out")
def test_interruption_leaves_nothing_behind(tmp_path, monkeypatch, name):
    def interrupted(*_):
        raise KeyboardInterrupt

    recipe, quick = QUICK[name]
    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe(quick).make(tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path, name):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"no weights")
    with pytest.raises(RunError, match="never overwritten"):
        QUICK[name][0]().make(file)
    assert file.read_bytes() == b"no weights"


def test_settings_that_train_nothing(name):
    with pytest.raises(ConfigError, match="positive"):
        replace(QUICK[name][1], steps=0)


@pytest.mark.usefixtures("_few_held_out")
def test_the_script_prints_the_accuracy(tmp_path, monkeypatch, capsys, name):
    recipe, quick = QUICK[name]
    monkeypatch.setitem(__main__.RECIPES, name, lambda: recipe(quick))
    file = tmp_path / "weights.safetensors"
    assert __main__.main([name, str(file)]) == 0
    assert f"in {file}; correct on held-out pictures: " in capsys.readouterr().out
    assert file.is_file()
    assert __main__.main([name, str(file)]) == 2
    assert "never overwritten" in capsys.readouterr().err


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
