"""VGG against torchvision's layers and a plain loop, and what training and feature caching need of the encoder."""

import urllib.error

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models import vgg16
from torchvision.models.vgg import make_layers

from tvr_lightning.encoders import VGG_PRESETS, VGGEncoder, VGGSize
from tvr_lightning.errors import CheckpointError, ConfigError

SIZE = VGGSize(image_size=32, blocks=((8, 8), (12,), (16, 16)), pooled=3, hidden_dim=24, embed_dim=20)
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return VGGEncoder(**({"size": SIZE, "freeze": False} | options))


def inputs(image_size=32):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 3, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    return frames, torch.tensor([[True, True, True], [True, False, False]])


def torchvision_state(seed=4, size=SIZE):
    """A state dict under torchvision's names, of small widths, with the last layer."""
    torch.manual_seed(seed)
    plan = [layer for block in size.blocks for layer in (*block, "M")]
    features = make_layers(plan)
    classifier = torch.nn.Sequential(
        torch.nn.Linear(size.blocks[-1][-1] * size.pooled**2, size.hidden_dim),
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        torch.nn.Linear(size.hidden_dim, size.embed_dim),
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        torch.nn.Linear(size.embed_dim, 10),
    )
    for parameter in [*features.parameters(), *classifier.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    state |= {f"classifier.{name}": value for name, value in classifier.state_dict().items()}
    return state, features.eval(), classifier.eval()


def save_pth(state, folder):
    torch.save(state, folder / "vgg.pth")
    return folder / "vgg.pth"


def save_wrapped(state, folder):
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "vgg.ckpt")
    return folder / "vgg.ckpt"


def save_safetensors(state, folder):
    save_file(state, folder / "vgg.safetensors")
    return folder


def save_without_the_last_layer(state, folder):
    return save_pth({k: v for k, v in state.items() if not k.startswith("classifier.6")}, folder)


@pytest.mark.parametrize("save", [save_pth, save_wrapped, save_safetensors, save_without_the_last_layer])
def test_features_equal_torchvisions_second_linear_layer(tmp_path, save):
    state, features, classifier = torchvision_state()
    encoder = make(from_pretrained=str(save(state, tmp_path)))
    frames, mask = inputs()
    with torch.no_grad():
        result = encoder.encode_frames(frames, mask)
        for video in range(2):
            for frame in range(3):
                expected = torch.zeros(20)
                if mask[video, frame]:
                    pixels = (frames[video, frame].float() / 255 - MEAN) / STD
                    pooled = F.adaptive_avg_pool2d(features(pixels[None]), 3).flatten(1)
                    expected = F.relu(classifier[:4](pooled))[0]
                torch.testing.assert_close(result[video, frame], expected, atol=1e-4, rtol=1e-4)
    assert result.min() == 0
    assert result[mask].any(dim=1).all()
    assert encoder.pretrained
    assert not make().pretrained


def test_full_vgg16_has_torchvisions_names_and_shapes():
    with torch.device("meta"):
        encoder, model = VGGEncoder("vgg16"), vgg16()
    own = {name: value.shape for name, value in encoder.state_dict().items()}
    expected = {name: value.shape for name, value in model.state_dict().items() if "classifier.6" not in name}
    assert own == expected
    assert (encoder.embed_dim, encoder.image_size, encoder.freeze) == (4096, 224, True)
    frames = torch.empty(1, 2, 3, 224, 224, dtype=torch.uint8, device="meta")
    assert encoder.encode_frames(frames, torch.empty(1, 2, dtype=torch.bool, device="meta")).shape == (1, 2, 4096)


def test_features_do_not_depend_on_padding_or_other_items():
    encoder = make().train()
    frames, mask = inputs()
    result = encoder.encode_frames(frames, mask)
    other = torch.where(mask[:, :, None, None, None], frames, 255 - frames)
    assert torch.equal(encoder.encode_frames(other, mask), result)
    torch.testing.assert_close(encoder.encode_frames(frames[1:, :1], mask[1:, :1]), result[1:, :1])
    longer = encoder.encode_frames(torch.cat([frames, frames], 1), torch.cat([mask, torch.zeros_like(mask)], 1))
    torch.testing.assert_close(longer[:, :3], result)
    assert not longer[:, 3:].any()


def test_many_frames_are_encoded_in_parts():
    encoder = make()
    generator = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (10, 20, 3, 32, 32), dtype=torch.uint8, generator=generator)
    mask = torch.rand(10, 20, generator=generator) < 0.9
    with torch.no_grad():
        whole = encoder.encode_frames(frames, mask)
        rows = [encoder.encode_frames(frames[i : i + 1], mask[i : i + 1]) for i in range(10)]
    torch.testing.assert_close(whole, torch.cat(rows))


def test_no_frame_at_all_gives_zeros_and_zero_gradients():
    encoder = make()
    frames, mask = inputs()
    result = encoder.encode_frames(frames, torch.zeros_like(mask))
    assert result.shape == (2, 3, 20)
    assert not result.any()
    result.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())
    assert encoder.encode_frames(frames[:0], mask[:0]).shape == (0, 3, 20)


def test_gradients_in_float64():
    encoder = make(size=VGGSize(8, ((2,), (3,)), 2, 5, 4)).double()
    frames, mask = inputs(8)
    encoder.forward = lambda: encoder.encode_frames(frames, mask)
    weights = [p.detach().clone().requires_grad_() for p in encoder.parameters()]
    names = [name for name, _ in encoder.named_parameters()]

    def features(*values):
        return torch.func.functional_call(encoder, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(features, weights, eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("saving", [False, True])
def test_every_parameter_receives_a_gradient(saving):
    encoder, plain = make(gradient_checkpointing=saving), make()
    for each in (encoder, plain):
        each.encode_frames(*inputs()).sin().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    for one, two in zip(encoder.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_gradient_checkpointing_keeps_fewer_tensors():
    def kept(encoder):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            encoder.encode_frames(*inputs())
        return sum(sizes)

    assert kept(make(gradient_checkpointing=True)) < kept(make()) / 2


def test_freeze_keeps_evaluation_mode_and_makes_no_graph():
    encoder = make(freeze=True).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.encode_frames(*inputs()).requires_grad


def test_same_seed_same_weights_and_scale_kept_through_the_layers():
    first, second, other = make(), make(), make(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.features[0].weight, other.features[0].weight)
    deep = VGGSize(64, ((8, 8), (16, 16), (32, 32, 32), (32, 32, 32), (32, 32, 32)), 2, 64, 64)
    result = make(size=deep).encode_frames(*inputs(64))[0]
    assert 0.1 < result.std() < 10


@pytest.mark.slow
def test_tiny_learns_colours_and_places_from_scratch():
    torch.manual_seed(0)
    encoder = VGGEncoder("tiny", freeze=False)
    size = VGG_PRESETS["tiny"]
    assert (encoder.image_size, encoder.embed_dim) == (size.image_size, size.embed_dim) == (64, 128)
    head = torch.nn.Linear(128, 12)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    colours = torch.tensor([[220, 30, 30], [30, 200, 30], [40, 60, 220]])

    def batch(count):
        frames = torch.randint(60, 100, (count, 1, 3, 64, 64))
        kind, place = torch.randint(3, (count,)), torch.randint(4, (count,))
        for frame, colour, corner in zip(frames[:, 0], kind.tolist(), place.tolist(), strict=True):
            top, left = (int(torch.randint(0, 16, ())) + 32 * half for half in divmod(corner, 2))
            frame[:, top : top + 14, left : left + 14] = colours[colour].view(3, 1, 1)
        return frames.to(torch.uint8), 4 * kind + place

    for _ in range(40):
        frames, target = batch(32)
        loss = F.cross_entropy(head(encoder.encode_frames(frames, torch.ones(32, 1, dtype=torch.bool))[:, 0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        frames, target = batch(120)
        right = head(encoder.encode_frames(frames, torch.ones(120, 1, dtype=torch.bool))[:, 0]).argmax(1) == target
    assert right.float().mean() > 0.8  # chance is 0.08


def test_bfloat16_autocast():
    encoder = make()
    frames, mask = inputs()
    full = encoder.encode_frames(frames, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder.encode_frames(frames, mask)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)
    assert not half[~mask].any()


def test_no_value_is_read_on_the_host():
    encoder = make().to("meta")  # a meta tensor has no value: reading one raises
    frames, mask = inputs()
    assert encoder.encode_frames(frames.to("meta"), mask.to("meta")).shape == (2, 3, 20)


def test_state_dict_goes_round():
    encoder, again = make(), make(seed=1)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.encode_frames(*inputs()), again.encode_frames(*inputs()))


def test_fingerprint_names_weights_and_size_only(tmp_path):
    encoder = make()
    name = encoder.fingerprint()
    assert name == encoder.fingerprint() == make(freeze=True).fingerprint()
    assert name == make().to(memory_format=torch.channels_last).fingerprint()
    assert name != make(seed=1).fingerprint()
    smaller = VGGSize(16, SIZE.blocks, SIZE.pooled, SIZE.hidden_dim, SIZE.embed_dim)
    assert name != make(size=smaller).fingerprint()
    other = make(seed=1, freeze=True)
    assert other.fingerprint() != name
    other.load_state_dict(encoder.state_dict())
    assert other.fingerprint() == name  # a checkpoint that is loaded later counts
    with torch.no_grad():
        other.classifier[0].bias[3] += 1e-3
    assert other.fingerprint() != name


def test_fingerprint_is_hashed_once(monkeypatch):
    encoder = make(freeze=True)
    encoder.fingerprint()
    monkeypatch.setattr("tvr_lightning.encoders.weights.hashlib.blake2b", lambda *_, **__: pytest.fail("again"))
    encoder.fingerprint()


@pytest.mark.parametrize("fused", [False, True])
def test_fingerprint_follows_training(fused):
    encoder = make()
    before = encoder.fingerprint()
    encoder.encode_frames(*inputs()).sum().backward()
    torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=fused).step()
    assert encoder.fingerprint() != before


def test_wrong_inputs_name_the_setting():
    encoder = make()
    frames, mask = inputs()
    with pytest.raises(ValueError, match="frame size to 32"):
        encoder.encode_frames(torch.zeros(1, 2, 3, 48, 48, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode_frames(frames.float(), mask)
    with pytest.raises(ValueError, match="frame_mask"):
        encoder.encode_frames(frames, mask[:, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vgg61", "size": None}, "did you mean vgg16"),
        ({"size": VGGSize(4, ((4,), (4,), (4,)), 1, 4, 4)}, "cannot be halved 3 times"),
        ({"size": VGGSize(32, ((4,), ()), 1, 4, 4)}, r"blocks=\(\(4,\), \(\)\)"),
        ({"size": VGGSize(32, ((4,),), 0, 4, 4)}, "pooled=0"),
        ({"from_pretrained": "IMAGENET1K_V1"}, "VGGSize has no pretrained weights 'IMAGENET1K_V1'.* a local file"),
        ({"model": "vgg16", "size": None, "from_pretrained": "IMAGENET1K_V2"}, "It takes IMAGENET1K_V1, or a local"),
    ],
)
def test_wrong_configuration(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_weights_that_do_not_fit(tmp_path):
    state, _, _ = torchvision_state()
    path = save_pth(state, tmp_path)
    wider = VGGSize(32, SIZE.blocks, 3, 24, 28)
    with pytest.raises(CheckpointError, match=r"classifier\.3\.weight: expected \(28, 24\), found \(20, 24\)"):
        make(from_pretrained=str(path), size=wider)
    with pytest.raises(CheckpointError, match=r"vgg\.pth does not fit tiny: .* more\. Set `model`"):
        make(from_pretrained=str(path), size=None, model="tiny")
    del state["features.0.weight"]
    with pytest.raises(CheckpointError, match=r"features\.0\.weight: missing"):
        make(from_pretrained=str(save_pth(state, tmp_path)))
    with pytest.raises(CheckpointError, match="No weights at"):
        make(from_pretrained=str(tmp_path / "absent.pth"))
    (tmp_path / "vgg.pth").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"vgg\.pth"):
        make(from_pretrained=str(tmp_path / "vgg.pth"))
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="no weight file"):
        make(from_pretrained=str(folder))


def test_download_is_checked_and_safe(monkeypatch):
    calls = []

    def fetch(url, **options):
        calls.append((url, options))
        return torchvision_state()[0]

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    monkeypatch.setitem(VGG_PRESETS, "vgg16", SIZE)
    encoder = VGGEncoder("vgg16", "IMAGENET1K_V1")
    assert encoder.pretrained
    assert torch.equal(encoder.classifier[0].bias, torchvision_state()[0]["classifier.0.bias"])
    ((url, options),) = calls
    assert url.endswith("vgg16-397923af.pth")
    assert options["weights_only"]
    assert options["check_hash"]


def test_failed_download_names_the_local_way(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth \(URLError\).*set from_pretrained to it"):
        VGGEncoder("vgg16", "IMAGENET1K_V1")
