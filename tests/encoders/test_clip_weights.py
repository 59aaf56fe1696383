"""Every format that CLIP weights come in, made small, and files that must be refused."""

import json
import pickle
import urllib.error
import zipfile

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP, convert_weights_to_fp16
from safetensors.torch import save_file

from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.encoders import CLIPEncoder, CLIPSize, read_clip_weights, read_state_dict
from tvr_lightning.encoders.clip_weights import openai_names
from tvr_lightning.errors import CheckpointError, ConfigError

SIZE = CLIPSize(32, 16, 128, 2, 2, 128, 2, 2, 64)
VISION = {"image_size": 32, "patch_size": 16, "width": 128, "layers": 2, "head_width": 64}
TEXT = {"context_length": 24, "width": 128, "heads": 2, "layers": 2}
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)


def source_model(kind=CLIP, quick_gelu=False):
    torch.manual_seed(3)
    model = kind(64, dict(VISION), dict(TEXT), quick_gelu=quick_gelu).eval()
    for parameter in model.parameters():  # biases are zero and norms one at first, which would hide swaps
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(model.logit_scale, 3.0)
    return model


def features(encoder):
    text = CLIPTokenizer(16)(["a dog runs over a field", "Wow! two red balls"])
    frames = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sentence, words = encoder.encode_text(text.tokens, text.mask)
        return text, frames, sentence, words, encoder.encode_frames(frames, torch.ones(1, 2, dtype=torch.bool))


def assert_same(encoder, model, tolerance=1e-5):
    text, frames, sentence, _, images = features(encoder)
    tokens = torch.nn.functional.pad(text.tokens, (0, TEXT["context_length"] - 16))
    with torch.no_grad():
        torch.testing.assert_close(sentence, model.encode_text(tokens), atol=tolerance, rtol=1e-4)
        expected = model.encode_image((frames[0].float() / 255 - MEAN) / STD)
    torch.testing.assert_close(images[0], expected, atol=tolerance, rtol=1e-4)
    assert encoder.logit_scale_init == pytest.approx(torch.tensor(3.0).exp().item(), rel=1e-3)


def load(path, **options):
    return CLIPEncoder(from_pretrained=str(path), **({"size": SIZE, "context_length": 16} | options)).eval()


def load_plain(path, **options):
    """Of a file that does not say its activation."""
    return load(path, quick_gelu=False, **options)


def save_plain(model, folder):
    torch.save(model.state_dict(), folder / "clip.pt")
    return folder / "clip.pt"


def save_training_checkpoint(model, folder):
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, folder / "epoch_3.pt")
    return folder / "epoch_3.pt"


def save_legacy_bin(model, folder):
    torch.save(model.state_dict(), folder / "clip.bin", _use_new_zipfile_serialization=False)
    return folder / "clip.bin"


def save_safetensors(model, folder):
    save_file(model.state_dict(), folder / "clip.safetensors")
    return folder / "clip.safetensors"


def save_folder(model, folder):
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("save", [save_plain, save_training_checkpoint, save_legacy_bin, save_safetensors, save_folder])
def test_open_clip_files(tmp_path, save, kind):
    model = source_model(kind)
    assert_same(load_plain(save(model, tmp_path)), model)


def test_flat_file_loads_into_a_custom_text_model(tmp_path, monkeypatch):
    config = {"embed_dim": 64, "custom_text": True, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "custom-text", config)
    model = source_model()
    assert_same(load(save_plain(model, tmp_path), model="custom-text", size=None), model)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clip_folder_names_activation_and_statistics(tmp_path, quick_gelu):
    model = source_model(quick_gelu=quick_gelu)
    config = {"model_cfg": {"quick_gelu": quick_gelu}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    encoder = load(save_folder(model, tmp_path))
    assert encoder.pixel_mean.flatten().tolist() == [127.5] * 3
    assert encoder.pixel_std.flatten().tolist() == [63.75] * 3
    encoder.pixel_mean, encoder.pixel_std = 255 * MEAN, 255 * STD
    assert_same(encoder, model)


def openai_state(model):
    half = source_model(quick_gelu=True)
    convert_weights_to_fp16(half)
    sizes = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(24),
        "vocab_size": torch.tensor(49408),
    }
    model.load_state_dict(half.state_dict())
    return half.state_dict() | sizes


@pytest.mark.parametrize("with_sizes", [True, False])
def test_openai_state_dict_has_quick_gelu(tmp_path, with_sizes):
    model = source_model(quick_gelu=True)
    state = openai_state(model)
    if not with_sizes:
        state = {name: value for name, value in state.items() if name in model.state_dict()}
    torch.save(state, tmp_path / "ViT.pt")
    encoder = load(tmp_path / "ViT.pt")
    assert_same(encoder, model)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def save_openai_archive(model, path):
    """Traces `model` into an archive that carries its sizes as buffers, as OpenAI's do."""
    for name, value in (("context_length", 24), ("vocab_size", 49408)):
        delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    model.register_buffer("input_resolution", torch.tensor(32))
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 24, dtype=torch.int64)}
    torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False), path)


@pytest.mark.filterwarnings("ignore")
def test_openai_torchscript_archive_is_read_without_running_it(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-32.pt"
    save_openai_archive(source_model(quick_gelu=True), path)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive was executed"))
    assert_same(load(path), source_model(quick_gelu=True))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_tensors_of_every_kind(tmp_path):
    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.small = torch.nn.Parameter(torch.randn(4, 3).half())
            self.register_buffer("view", torch.arange(12).reshape(3, 4).T[1:])
            self.register_buffer("flag", torch.tensor(True))
            self.register_buffer("empty", torch.zeros(0, 2))
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
            self.numbers = [1, 2, 3]

        def forward(self, x):
            return self.layers(x) * self.numbers[0]

    module = torch.jit.script(Part())
    torch.jit.save(module, tmp_path / "part.pt")
    state, expected = read_state_dict(tmp_path / "part.pt"), module.state_dict()
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("file", [None, "model.safetensors", "pytorch_model.bin"])
def test_hugging_face(tmp_path, activation, file):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(5)
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"hidden_act": activation}
    text = tower | {"max_position_embeddings": 24, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0}
    vision = tower | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(model.logit_scale, 3.0)
    model.save_pretrained(tmp_path)
    if file == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / file)
    encoder = load(tmp_path / file if file else tmp_path)

    caption, frames, sentence, words, images = features(encoder)
    with torch.no_grad():
        output = model.text_model(input_ids=caption.tokens)
        torch.testing.assert_close(sentence, model.text_projection(output.pooler_output), atol=1e-5, rtol=1e-4)
        every = model.text_projection(output.last_hidden_state)
        torch.testing.assert_close(words[caption.mask], every[caption.mask], atol=1e-5, rtol=1e-4)
        pooled = model.vision_model(pixel_values=(frames[0].float() / 255 - MEAN) / STD).pooler_output
        torch.testing.assert_close(images[0], model.visual_projection(pooled), atol=1e-5, rtol=1e-4)
    assert encoder.logit_scale_init == pytest.approx(20.0855, rel=1e-4)

    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="image attention heads: expected 2, found 4"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"without its 'config\.json'"):
        load(tmp_path)


def test_tag_gives_file_activation_and_statistics(tmp_path, monkeypatch):
    model = source_model(quick_gelu=True)
    path = save_plain(model, tmp_path)
    config = {"embed_dim": 64, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}
    record = {"url": "https://example.org/clip.pt", "mean": (0.5,) * 3, "std": (0.5,) * 3, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"some_tag": record})
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda _: str(path))
    encoder = load("some-tag", model="small", size=None)
    assert encoder.pixel_mean.flatten().tolist() == [127.5] * 3
    encoder.pixel_mean, encoder.pixel_std = 255 * MEAN, 255 * STD
    assert_same(encoder, model)


def test_failed_download_names_the_local_way(monkeypatch):
    def offline(_):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", offline)
    with pytest.raises(CheckpointError, match="set from_pretrained to the local file or folder"):
        CLIPEncoder("ViT-B-32", "laion2b_s34b_b79k")


def test_unknown_tag_and_missing_path():
    with pytest.raises(ConfigError, match=r"no pretrained tag 'openia'.*openai, laion400m_e31"):
        CLIPEncoder("ViT-B-32", "openia")
    with pytest.raises(ConfigError, match="Tags of tiny: shapes"):
        CLIPEncoder("tiny", "openai")
    with pytest.raises(CheckpointError, match="No weights at"):
        CLIPEncoder("tiny", "weights/clip.pt")


def test_mismatch_lists_keys_with_shapes(tmp_path):
    path = save_plain(source_model(), tmp_path)
    with pytest.raises(CheckpointError, match=r"text_projection: expected \(128, 32\), found \(128, 64\)"):
        load_plain(path, size=CLIPSize(32, 16, 128, 2, 2, 128, 2, 2, 32))
    with pytest.raises(CheckpointError, match=r"resblocks\.2\.\S+: missing; .* and 7 more\. Set `model`"):
        load_plain(path, size=CLIPSize(32, 16, 128, 3, 2, 128, 2, 2, 64))
    with pytest.raises(CheckpointError, match="weights take 32 px images, the model 64 px: set image_size=64"):
        load_plain(path, size=CLIPSize(64, 16, 128, 2, 2, 128, 2, 2, 64))
    with pytest.raises(ConfigError, match="context_length=32 exceeds the 24 text positions"):
        load_plain(path, context_length=32)


def test_folder_without_or_with_many_weight_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weight file \(found: nothing\)"):
        load(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several weight files \(found: a\.pt, b\.pt\)"):
        load(tmp_path)


class Touch:
    """Pickles into a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("archive", ["torch.save", "torchscript"])
def test_file_that_runs_code_is_refused(tmp_path, archive):
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    if archive == "torch.save":
        torch.save({"weight": torch.zeros(1), "extra": Touch(mark)}, path)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/constants.pkl", pickle.dumps(()))
            file.writestr("archive/data.pkl", pickle.dumps({"weight": Touch(mark)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"was refused.*io\.open"):
        read_state_dict(path)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors", "legacy.bin", "archive.pt"])
def test_damaged_file(tmp_path, name):
    path = tmp_path / name
    linear = torch.nn.Linear(64, 64)
    if name == "clip.safetensors":
        save_file(linear.state_dict(), path)
    elif name == "archive.pt":
        torch.jit.save(torch.jit.script(linear), path)
    else:
        torch.save(linear.state_dict(), path, _use_new_zipfile_serialization=name == "clip.pt")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not weights", b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            read_state_dict(path)


def test_file_without_tensors(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match=r"holds no state dict \(found: keys 'model'"):
        read_clip_weights(tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match="No weight file at"):
        read_clip_weights(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("module.visual.proj", "visual.proj"),
            r"two tensors for one parameter, visual\.proj: module\.visual\.proj and",
        ),
        (
            ("text.ln_final.bias", "ln_final.bias"),
            r"two tensors for one parameter, ln_final\.bias: text\.ln_final\.bias and ln_final\.bias",
        ),
        (("x" * 100_000, "module." + "x" * 100_000), "two tensors for one parameter, x{40}…x{40}: "),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_two_tensors_for_one_place(tmp_path, names, message, reverse):
    state = {name: torch.zeros(2) for name in names}
    torch.save(dict(reversed(state.items())) if reverse else state, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="two tensors for one parameter" if reverse else message) as refused:
        read_clip_weights(tmp_path / "clip.pt")
    assert len(str(refused.value)) < 600


def test_names_of_hugging_face_beside_openais():
    layer = "text_model.encoder.layers.0.self_attn."
    parts = {f"{layer}{part}_proj.bias": torch.full((2,), float(i)) for i, part in enumerate("qkv")}
    joined = "transformer.resblocks.0.attn.in_proj_bias"
    assert openai_names(parts, "a.bin")[joined].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(CheckpointError, match=r"a\.bin holds two tensors for one parameter, .*in_proj_bias"):
        openai_names({**parts, joined: torch.zeros(6)}, "a.bin")
    for lacking in "qkv":  # none of the others is lost on the way
        rest = {name: x for name, x in parts.items() if f"{lacking}_proj" not in name}
        assert openai_names(rest, "a.bin").keys() == rest.keys()


@pytest.mark.parametrize("scale", [1e4, float("nan"), float("inf"), -1e4, [1.0, 2.0]])
def test_a_logit_scale_that_is_none(tmp_path, scale):
    torch.save({"visual.proj": torch.zeros(2), "logit_scale": torch.tensor(scale)}, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="logit_scale is not a logarithm of a factor"):
        read_clip_weights(tmp_path / "clip.pt")
