"""CLIP's features against open_clip's own forward passes, and what training needs of the encoder."""

import copy

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.encoders import PRESETS, CLIPEncoder, CLIPSize
from tvr_lightning.encoders.base import filled_frames
from tvr_lightning.errors import ConfigError

SIZE = CLIPSize(32, 16, 64, 2, 2, 64, 2, 2, 48)
CAPTIONS = ["a dog runs", "Wow! a red ball rolls", "two men talk about the weather all day long"]
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
TEXT = {"width": 64, "heads": 2, "layers": 2}
TOWERS = {
    "custom-text": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
        "text_cfg": TEXT | {"proj_bias": True},
    },
    "no-projection": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "pool_type": "avg"},
        "text_cfg": TEXT | {"proj_type": "none"},
    },
    "resnet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 8},
        "text_cfg": TEXT,
    },
}


@pytest.fixture
def towers(monkeypatch):
    for name, config in TOWERS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return CLIPEncoder(**({"size": SIZE, "context_length": 16} | options))


def inputs(image_size=32, context_length=16):
    text = CLIPTokenizer(context_length)(CAPTIONS)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 3, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    frame_mask = torch.tensor([[True, True, True], [True, False, False]])
    return text.tokens, text.mask, frames, frame_mask


def whole(tokens, model):
    """Captions of as many tokens as the model has positions, which open_clip wants."""
    return torch.nn.functional.pad(tokens, (0, model.context_length - tokens.shape[1]))


def loss_of(encoder):
    tokens, mask, frames, frame_mask = inputs(encoder.image_size)
    sentence, words = encoder.encode_text(tokens, mask)
    features = encoder.encode_frames(frames, frame_mask)
    return sentence.pow(2).sum() + words.sin().sum() + features.sin().sum()


def reference_words(model, tokens):
    tower = getattr(model, "text", model)
    output = model.forward_intermediates(text=tokens, text_indices=1, normalize_intermediates=True)
    words = output["text_intermediates"][0]
    if tower.text_projection is None:
        return words
    return tower.text_projection(words) if callable(tower.text_projection) else words @ tower.text_projection


@pytest.mark.parametrize("name", ["size", *TOWERS])
def test_features_equal_open_clips(towers, name):
    encoder = make() if name == "size" else make(model=name, size=None)
    encoder.eval()
    tokens, mask, frames, frame_mask = inputs(encoder.image_size)
    with torch.no_grad():
        sentence, words = encoder.encode_text(tokens, mask)
        features = encoder.encode_frames(frames, frame_mask)
        model = encoder.clip
        every = whole(tokens, model)
        torch.testing.assert_close(sentence, model.encode_text(every), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(words[mask], reference_words(model, every)[:, :16][mask], atol=1e-5, rtol=1e-5)
        images = (frames[frame_mask].float() / 255 - MEAN) / STD
        torch.testing.assert_close(features[frame_mask], model.encode_image(images), atol=1e-5, rtol=1e-4)
    assert encoder.embed_dim == sentence.shape[1] == words.shape[2] == features.shape[2]
    assert not words[~mask].any()
    assert not features[~frame_mask].any()


@pytest.mark.parametrize("name", ["size", "resnet"])
def test_features_do_not_depend_on_padding_or_other_items(towers, name):
    encoder = (make() if name == "size" else make(model=name, size=None)).train()
    tokens, mask, frames, frame_mask = inputs(encoder.image_size)
    with torch.no_grad():
        sentence, words = encoder.encode_text(tokens, mask)
        length = int(mask[0].sum())
        alone, alone_words = encoder.encode_text(tokens[:1, :length], mask[:1, :length])
        torch.testing.assert_close(alone, sentence[:1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone_words, words[:1, :length], atol=1e-5, rtol=1e-5)
        features = encoder.encode_frames(frames, frame_mask)
        one = encoder.encode_frames(frames[1:, :1], frame_mask[1:, :1])
        torch.testing.assert_close(one, features[1:, :1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["size", "resnet"])
def test_features_of_padding(towers, name):
    """Places behind a caption are of token 0, frames that do not exist of the mean colour: zero after normalisation."""
    encoder = (make() if name == "size" else make(model=name, size=None)).eval()
    tokens, mask, frames, frame_mask = inputs(encoder.image_size)
    with torch.no_grad():
        sentence, _ = encoder.encode_text(tokens, mask)
        noisy = torch.where(mask, tokens, 77)[:, : int(mask.sum(1).max())]
        padded_sentence, padded = encoder.encode_padded_text(noisy, mask[:, : noisy.shape[1]])
        torch.testing.assert_close(padded_sentence, sentence, atol=1e-5, rtol=1e-5)
        every = reference_words(encoder.clip, whole(tokens, encoder.clip))[:, :16]
        torch.testing.assert_close(padded, every, atol=1e-5, rtol=1e-5)
        assert padded[~mask].any(-1).all()
        features = encoder.encode_frames(frames, frame_mask)
        filled = filled_frames(encoder, features, frame_mask, count=5)
        empty = encoder.clip.encode_image(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
    assert filled.shape == (2, 5, encoder.embed_dim)
    torch.testing.assert_close(filled[:, :3][frame_mask], features[frame_mask])
    torch.testing.assert_close(filled[1, 1:], empty.expand(4, -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(filled[0, 3:], empty.expand(2, -1), atol=1e-5, rtol=1e-4)


def test_same_seed_same_weights_and_only_torchs_generator():
    first, second, other = make(), make(), make(seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.text_positions, other.text_positions)


def test_state_dict_holds_each_parameter_once():
    encoder = make()
    assert len(encoder.state_dict()) == len(list(encoder.parameters()))
    assert not any("logit_scale" in name for name, _ in encoder.named_parameters())
    again = make(seed=1)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(loss_of(again), loss_of(encoder))


def test_tiny_preset_and_text_tower():
    encoder = CLIPEncoder("tiny", context_length=8)
    size = PRESETS["tiny"]
    assert (encoder.image_size, encoder.embed_dim) == (size.image_size, size.embed_dim) == (64, 128)
    assert encoder.logit_scale_init == pytest.approx(1 / 0.07)
    assert (len(encoder.text_blocks), encoder.text_heads, encoder.text_width) == (2, 2, 128)
    assert encoder.text_positions.shape == (77, 128)
    assert CLIPEncoder("tiny", context_length=90).text_positions.shape == (90, 128)
    frames = torch.rand(2, 5, 128)
    assert encoder.text_blocks[0](frames).shape == frames.shape


@pytest.mark.parametrize("name", ["size", *TOWERS])
def test_every_parameter_receives_a_gradient(towers, name):
    encoder = make() if name == "size" else make(model=name, size=None)
    for module_name, parameter in encoder.named_parameters():
        if module_name.endswith("bn3.weight"):  # zero at first, which hides the block behind it
            torch.nn.init.ones_(parameter)
    loss_of(encoder).backward()
    dead = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("count", [1, 2])
def test_freeze_layers(count):
    encoder = make(freeze_layers=count)
    loss_of(encoder).backward()
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    blocks = [f"transformer.resblocks.{layer}." for layer in range(count)]
    stem = ("positional_embedding", "class_embedding", "conv1", "ln_pre", "token_embedding")
    assert frozen == {n for n, _ in encoder.named_parameters() if any(part in n for part in (*stem, *blocks))}
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


def test_freeze_keeps_evaluation_mode_and_makes_no_graph():
    encoder = make(freeze=True).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not loss_of(encoder).requires_grad


def test_freeze_image_trains_the_text_tower_alone():
    encoder = make(freeze_image=True).train()
    assert encoder.frames_frozen
    assert not any(module.training for module in encoder.clip.visual.modules())
    assert encoder.clip.transformer.training
    loss_of(encoder).backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == ("visual." in name), name
    assert not make().frames_frozen
    assert make(freeze=True).frames_frozen


def test_the_fingerprint_names_what_frames_become():
    encoder = make(freeze_image=True)
    name = encoder.fingerprint()
    with torch.no_grad():
        encoder.clip.token_embedding.weight += 1  # no frame sees it
    assert encoder.fingerprint() == name
    with torch.no_grad():
        encoder.clip.visual.proj += 1
    assert encoder.fingerprint() != name
    assert make(freeze_image=True).fingerprint() == name
    assert make(seed=2, freeze_image=True).fingerprint() != name


def test_batch_norms_keep_their_statistics(towers):
    encoder = make(model="resnet", size=None).train()
    before = copy.deepcopy(encoder.state_dict())
    loss_of(encoder)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.training


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, saving = make(), make(gradient_checkpointing=True)
    for encoder in (plain, saving):
        loss_of(encoder).backward()
    assert saving.clip.visual.transformer.grad_checkpointing
    assert saving.clip.transformer.grad_checkpointing
    for (name, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_bfloat16_autocast():
    encoder = make()
    full = loss_of(encoder).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, mask, frames, frame_mask = inputs()
        sentence, words = encoder.encode_text(tokens, mask)
        features = encoder.encode_frames(frames, frame_mask)
        loss = loss_of(encoder)
    assert {x.dtype for x in (sentence, words, features)} == {torch.bfloat16}
    torch.testing.assert_close(loss.float(), full, rtol=0.1, atol=1.0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_no_value_is_read_on_the_host():
    encoder = make().to("meta")  # a meta tensor has no value: reading one raises
    tokens, mask, frames, frame_mask = (x.to("meta") for x in inputs())
    assert encoder.encode_text(tokens, mask)[0].shape == (3, 48)
    assert encoder.encode_frames(frames, frame_mask).shape == (2, 3, 48)


def test_wrong_inputs_name_the_setting():
    encoder = make()
    tokens, mask, frames, frame_mask = inputs()
    with pytest.raises(ValueError, match="frame size to 32"):
        encoder.encode_frames(torch.zeros(1, 2, 3, 48, 48, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode_frames(frames.float(), frame_mask)
    with pytest.raises(ValueError, match="frame_mask"):
        encoder.encode_frames(frames, frame_mask[:, :2])
    with pytest.raises(ValueError, match="context_length=16"):
        encoder.encode_text(torch.ones(1, 17, dtype=torch.int64), torch.ones(1, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="token_mask"):
        encoder.encode_text(tokens, mask[:, :3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B32"}, "did you mean ViT-B-32"),
        ({"model": "tinny"}, "did you mean tiny"),
        ({"model": "ViT-B-16-SigLIP"}, r"reads the padding .* made for 64 tokens; got context_length=32.*max_words=64"),
        ({"model": "resnet", "text_model": "folder"}, "this one has its own"),
        ({"size": SIZE, "image_size": 40}, "image_size=40 is not a multiple of 16"),
        ({"model": "resnet", "image_size": 70}, "image_size=70 is not a multiple of 32"),
        ({"size": SIZE, "freeze_layers": 3}, "set 0 to 2"),
        ({"size": SIZE, "freeze_layers": -1}, "set 0 to 2"),
        ({"model": "resnet", "freeze_layers": 5}, "set 0 to 4"),
        ({"size": CLIPSize(33, 16, 64, 2, 2, 64, 2, 2, 48)}, "image_size=33 is not a multiple of patch_size=16"),
        ({"size": CLIPSize(32, 16, 64, 2, 2, 64, 0, 2, 48)}, "text_layers=0"),
    ],
)
def test_wrong_configuration(towers, options, message):
    with pytest.raises(ConfigError, match=message):
        CLIPEncoder(**options)


def test_size_is_open_clips_model_of_that_size():
    torch.manual_seed(0)
    text = {"width": 64, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
    model = CLIP(48, vision, text).eval()
    tokens, mask, _, _ = inputs()
    with torch.no_grad():
        expected = model.encode_text(whole(tokens, model))
        torch.testing.assert_close(make().encode_text(tokens, mask)[0], expected, atol=1e-6, rtol=1e-5)
