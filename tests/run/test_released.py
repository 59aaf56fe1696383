"""Checkpoints of methods' released code: what a method scores with them, what is refused, what results say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.kept import weights_of_released_code
from tvr_lightning.errors import CheckpointError, ConfigError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.methods.drl import DRL
from tvr_lightning.methods.mean_pool import MeanPool
from tvr_lightning.methods.ts2net import TS2Net
from tvr_lightning.methods.ucofia import UCoFiA
from tvr_lightning.methods.xclip import XCLIP
from tvr_lightning.methods.xpool import XPool
from tvr_lightning.run.released import is_released, load_released, say_released

from ..methods import released_cases as cases
from ..methods.padding_cases import FIXED, WORDS, text_and_video

CALCULATORS = ("meanP", "seqLSTM", "seqTransf", "tightTransf")
Small = Callable[..., Any]


def following(small_encoder: Small, **settings: Any) -> Any:
    """An encoder that waits for the weights of released code."""
    with weights_of_released_code():
        return small_encoder(context_length=WORDS, **settings)


def clip4clip_scores(state: dict[str, Tensor], tokens: Tensor, pixels: Tensor, exists: Tensor, header: str) -> Tensor:
    """CLIP4Clip's forward pass as its released code goes: all words and frames of a batch, masks as numbers."""
    sentence = cases.word_features(tokens, state)[0]
    frames = cases.image_features(pixels.flatten(0, 1), state).unflatten(0, exists.shape)
    mask = exists.to(frames.dtype)
    if header == "tightTransf":
        return _tight(state, sentence, frames, mask)
    original = frames
    if header == "seqLSTM":
        lstm = torch.nn.LSTM(cases.WIDTH, cases.WIDTH, batch_first=True, dtype=frames.dtype)
        lstm.load_state_dict({n.removeprefix("lstm_visual."): x for n, x in state.items() if n.startswith("lstm_")})
        rows = []
        for row, count in zip(frames, exists.sum(1).tolist(), strict=True):
            rows.append(torch.cat([lstm(row[None, :count])[0][0], row[count:]]))
        frames = torch.stack(rows) + original
    elif header == "seqTransf":
        x = frames + state["frame_position_embeddings.weight"][: frames.shape[1]]
        seen = ((1 - mask[:, None]) * -1e6).expand(-1, mask.shape[1], -1)
        frames = cases.transformer(x, state, "transformerClip", 1, seen) + original
    frames = frames / frames.norm(dim=-1, keepdim=True)
    video = (frames * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    video, sentence = video / video.norm(dim=-1, keepdim=True), sentence / sentence.norm(dim=-1, keepdim=True)
    return state["clip.logit_scale"].exp() * sentence @ video.T


def _tight(state: dict[str, Tensor], sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    rows = []
    for one in sentence:
        x = torch.cat([one.expand(len(frames), 1, -1), frames], dim=1)
        seen = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        x = x + state["cross.embeddings.position_embeddings.weight"][: x.shape[1]]
        hidden = ((1 - seen[:, None]) * -1e6).expand(-1, seen.shape[1], -1)
        x = cases.transformer(x, state, "cross.transformer", 1, hidden)
        x = cases.norm(x, state, "cross.pooler.ln_pool")[:, 0]
        x = F.linear(x, state["cross.pooler.dense.weight"], state["cross.pooler.dense.bias"])
        x = x * torch.sigmoid(1.702 * x)
        rows.append(F.linear(x, state["similarity_dense.weight"], state["similarity_dense.bias"])[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("similarity", CALCULATORS)
@torch.no_grad()
def test_clip4clip_scores_as_its_released_code(
    small_encoder: Small, tmp_path: Path, similarity: Any, wrapped: bool
) -> None:
    state = cases.weights(cases.clip4clip(similarity))
    path = cases.save(tmp_path / "pytorch_model.bin.2", state, wrapped=wrapped)
    # one of the 77 positions of the tight type is the sentence's; of seqTransf's as many are taken as there are frames
    model = CLIP4Clip(following(small_encoder), similarity, num_layers=cases.LAYERS, max_frames=76 - 60 * wrapped)
    assert is_released(path)
    unused = load_released(model, path)
    model = model.double().eval()
    text, video = text_and_video(5, 4)
    pixels = (video.frames.double() - model.encoder.pixel_mean) / model.encoder.pixel_std  # type: ignore[operator]
    wide = {name: x.double() for name, x in state.items()}
    expected = clip4clip_scores(wide, text.tokens, pixels, video.frame_mask, similarity)
    if similarity == "tightTransf":
        assert unused.keys() == {"clip.logit_scale", "similarity_dense.bias"}
        expected = expected - wide["similarity_dense.bias"]
    assert expected.std() > 1e-3
    scores = model.score(model.encode_text(text), model.encode_video(video))
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


def built(small_encoder: Small, name: str) -> tuple[RetrievalModule[Any, Any], cases.Shapes]:
    """A method with the layout of its released files."""
    encoder, layers = following(small_encoder), cases.LAYERS
    if name == "xclip":
        return XCLIP(encoder, "attended", FIXED, num_layers=layers), cases.xclip(WORDS, FIXED)
    if name == "xpool":
        return XPool(encoder), cases.xpool()
    if name == "ts2net":
        return TS2Net(encoder, selected_patches=2, num_layers=layers), cases.ts2net()
    if name == "ucofia":
        model = UCoFiA(encoder, selected_patches=2, num_layers=layers, max_frames=FIXED)
        return model, cases.ucofia(WORDS, FIXED, 3)
    count = int(name.removeprefix("drl"))
    return DRL(encoder, weight_layers=count, num_layers=layers), cases.drl(count)


METHODS = ("xclip", "xpool", "ts2net", "ucofia", "drl1", "drl2", "drl3")


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_tensor_of_a_released_file_is_loaded_or_named_as_unused(
    small_encoder: Small, tmp_path: Path, name: str
) -> None:
    model, shapes = built(small_encoder, name)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    state = cases.weights(shapes)
    unused = load_released(model, cases.save(tmp_path / "a.bin", state, nested=name == "xpool"))
    after = model.state_dict()
    assert all(not torch.equal(x, after[k]) for k, x in before.items()), "something kept its own weights"
    numbers = sum(x.numel() for n, x in state.items() if n not in unused and not n.endswith("position_ids"))
    cut = sum(x.numel() for x in after.values())
    positions = state["frame_position_embeddings.weight"].numel() if name != "xpool" else 0
    own = after["temporal.positions.weight"].numel() if name != "xpool" else 0
    assert numbers - positions == cut - own
    text, video = text_and_video(3, 2)
    model.eval()
    assert bool(torch.isfinite(model.score(model.encode_text(text), model.encode_video(video))).all())


SCORES = "visual_token_selector.score_predictor"
# what shapes do not tell apart
PAIRS = {
    "xclip": {
        "sentence_map": "global_mat_weight.T", "word_map": "local_mat_weight.T",
        "over_both.over_words.interact": "word_mat_weight.T", "over_both.then_words.interact": "word_mat_weight2.T",
    },
    "ucofia": {
        "sentence_map": "global_mat_weight.T", "video_map": "global_mat_weight_1.T", "word_map": "local_mat_weight.T",
        "over_frames.interact": "frame_logit_weight.T", "over_both.over_words.interact": "word_mat_weight.T",
        "over_both.then_words.interact": "word_mat_weight2.T", "over_both.over_frames.interact": "pixel_mat_weight.T",
        "over_both.then_frames.interact": "pixel_mat_weight2.T", "select.scores.reduce": f"{SCORES}.in_conv.1.weight",
        "select.scores.mix": f"{SCORES}.out_conv.0.weight",
    },
    "ts2net": {
        "select.scores.reduce": f"{SCORES}.in_conv.1.weight", "select.scores.rate": f"{SCORES}.out_conv.2.weight",
        "encoder.clip.visual.transformer.resblocks.0.attn.out_proj":
            "clip.visual.transformer.resblocks.0.attn.net.out_proj.weight",
        "encoder.clip.transformer.resblocks.0.attn.out_proj": "clip.transformer.resblocks.0.attn.out_proj.weight",
        "temporal.layers.1.linear1": "transformerClip.resblocks.1.mlp.c_fc.weight",
    },
    "xpool": {
        "pool.query": "pool_frames.cross_attn.q_proj.weight", "pool.key": "pool_frames.cross_attn.k_proj.weight",
        "pool.value": "pool_frames.cross_attn.v_proj.weight", "pool.output": "pool_frames.cross_attn.out_proj.weight",
        "pool.fc": "pool_frames.linear_proj.weight", "pool.norm_inputs": "pool_frames.layer_norm1.weight",
        "pool.norm_attended": "pool_frames.layer_norm2.weight", "pool.norm_output": "pool_frames.layer_norm3.weight",
    },
    "drl1": {"interact.of_words.0": "text_weight_fc.weight", "interact.of_frames.0": "video_weight_fc.weight"},
    "drl3": {
        "interact.of_words.0": "text_weight_fc.0.weight", "interact.of_words.2": "text_weight_fc.2.weight",
        "interact.of_frames.4": "video_weight_fc.4.weight",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_tensors_of_one_shape_are_not_mistaken_for_each_other(small_encoder: Small, tmp_path: Path, name: str) -> None:
    model, shapes = built(small_encoder, name)
    state = cases.weights(shapes)
    load_released(model, cases.save(tmp_path / "a.bin", state))
    own = model.state_dict()
    for part, there in PAIRS[name].items():
        x = state[there.removesuffix(".T")].float()
        assert torch.equal(own[f"{part}.weight"], x.T if there.endswith(".T") else x), part


def test_a_block_that_shifts_there_and_not_here_is_named(small_encoder: Small, tmp_path: Path) -> None:
    model = TS2Net(following(small_encoder), selected_patches=2, shifted_blocks=0, num_layers=cases.LAYERS)
    with pytest.raises(CheckpointError, match=r"attn\.in_proj_weight: missing.*and \d+ more"):
        load_released(model, cases.save(tmp_path / "a.bin", cases.weights(cases.ts2net())))


@torch.no_grad()
def test_names_of_x_clip_lead_to_what_the_formulas_use(small_encoder: Small, tmp_path: Path) -> None:
    """The score of every pair from the file alone: rows times matrices, padding takes part."""
    model, shapes = built(small_encoder, "xclip")
    state = cases.weights(shapes)
    load_released(model, cases.save(tmp_path / "a.bin", state))
    model = model.double().eval()
    w = {name: x.double() for name, x in state.items()}
    text, video = text_and_video(3, 4)
    encoder: Any = model.encoders[0]
    pixels = (video.frames.double() - encoder.pixel_mean) / encoder.pixel_std * video.frame_mask[..., None, None, None]
    pixels = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, FIXED - pixels.shape[1]))
    mask = F.pad(video.frame_mask, (0, FIXED - video.frame_mask.shape[1])).double()
    frames = cases.image_features(pixels.flatten(0, 1), w).unflatten(0, (4, FIXED))
    seen = ((1 - mask[:, None]) * -1e6).expand(-1, FIXED, -1)
    encoded = frames + w["frame_position_embeddings.weight"][:FIXED]
    encoded = F.normalize(cases.transformer(encoded, w, "transformerClip", 1, seen) + frames, dim=-1)
    v = F.normalize((encoded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    sentence, words = (F.normalize(x, dim=-1) for x in cases.word_features(text.tokens, w))
    f = F.normalize(frames, dim=-1)

    def over(s: Tensor, name: str) -> Tensor:
        return ((s / 0.01).softmax(-1) @ w[name] * s).sum(-1)

    matrix = torch.einsum("tmd,vnd->tvmn", words @ w["local_mat_weight"], f)
    both = over(over(matrix.mT, "word_mat_weight"), "frame_mat_weight2")
    both = both + over(over(matrix, "frame_mat_weight"), "word_mat_weight2")
    expected = sentence @ w["global_mat_weight"] @ v.T + both / 2
    expected += over(torch.einsum("tmd,vd->tvm", words, v), "word_logit_weight")
    expected += over(torch.einsum("td,vnd->tvn", sentence, f), "frame_logit_weight")
    scores = model.score(model.encode_text(text), model.encode_video(video))
    torch.testing.assert_close(scores, expected / 4 * w["clip.logit_scale"].exp(), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_hugging_face_clip_is_openais(small_encoder: Small, tmp_path: Path) -> None:
    state = cases.weights(cases.xpool())
    model = XPool(following(small_encoder))
    load_released(model, cases.save(tmp_path / "a.bin", state, nested=True))
    tower: Any = model.encoder.clip  # type: ignore[union-attr]
    layer = "clip.vision_model.encoder.layers.0.self_attn."
    joined = torch.cat([state[f"{layer}{p}_proj.weight"] for p in "qkv"]).float()
    assert torch.equal(tower.visual.transformer.resblocks[0].attn.in_proj_weight, joined)
    assert torch.equal(tower.text_projection, state["clip.text_projection.weight"].T.float())
    assert torch.equal(model.pool.fc.weight, state["pool_frames.linear_proj.weight"])
    assert model.encoder.name.endswith("-quickgelu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("clip.visual.proj"), r"clip\.visual\.proj: missing"),
        (lambda s: s.update({"extra.weight": torch.zeros(2)}), r"extra\.weight: not part of the model"),
        (lambda s: s.update({"clip.visual.conv2.weight": torch.zeros(2)}), r"conv2\.weight: not part of the model"),
        (lambda s: s.update({"clip.ln_final.bias": torch.zeros(31)}), r"bias: expected \(32,\), found \(31,\)"),
        (lambda s: s.update({"clip.ln_final.bias": torch.zeros(32).long()}), "found torch.int64"),
        (lambda s: s.update({"clip.ln_final.bias": torch.full((32,), torch.nan)}), "not finite: encoder.clip.ln_final"),
        (lambda s: s.update({"clip.ln_final.bias": torch.zeros(1).expand(32)}), "fewer than they say"),
        (lambda s: s.update({"clip.ln_final.bias": torch.zeros(1).expand(1 << 40)}), "fewer than they say"),
        (lambda s: s.update({"frame_position_embeddings.weight": torch.zeros(9, 32)}), "set --model.max_frames=9"),
        (lambda s: s.update({"frame_position_embeddings.weight": torch.zeros(0, 32)}), "has 0 rows: positions for no"),
        (lambda s: s.update({"module.clip.visual.proj": torch.zeros(32, 32)}), "two tensors for one parameter, clip"),
        (lambda s: s.update({"module.module.clip.visual.proj": torch.zeros(2)}), r"module\.clip\.visual\.proj: not"),
        (lambda s: s.update({"clip.text_model.final_layer_norm.bias": torch.zeros(32)}),
         r"two tensors for one parameter, ln_final\.bias: ln_final\.bias and text_model\.final_layer_norm\.bias"),
        (lambda s: s.update({"clip.text_model.encoder.layers.0.self_attn.k_proj.bias": torch.zeros(32)}),
         r"k_proj\.bias: not part of the model"),
        *((lambda s, x=x: s.update({"clip.ln_final.bias": torch.zeros(32).to(x)}), f"found {x}; weights are read in 16")
          for x in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)),
        (lambda s: s.update({"x" * 100_000: torch.zeros(2)}), r"xxx…xxx+: not part of the model\. Set"),
        (lambda s: s.update({"clip." + "x" * 100_000: torch.zeros(1).expand(2)}), r"^.{0,400}$"),
        *((lambda s, x=x: s.update({"clip.logit_scale": torch.tensor(x)}), "the logit scale is exp")
          for x in (200.0, 4.7, -200.0)),
        (lambda s: s.pop("transformerClip.resblocks.1.ln_1.bias"),
         r"chooses or counts its parts \(model\.similarity=seqTransf, model\.num_layers, model\.max_frames\)"),
        (lambda s: s.pop("transformerClip.resblocks.1.ln_1.bias"), r"resblocks\.1\.ln_1\.bias: missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    small_encoder: Small, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = cases.weights(cases.clip4clip("seqTransf"))
    change(state)
    model = CLIP4Clip(following(small_encoder), num_layers=cases.LAYERS, max_frames=12)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_released(model, cases.save(tmp_path / "a.bin", state))
    assert all(torch.equal(x, before[k]) for k, x in model.state_dict().items()), "something was loaded"


def test_a_method_that_declares_no_names(small_encoder: Small, tmp_path: Path) -> None:
    path = cases.save(tmp_path / "a.bin", cases.weights(cases.clip()))
    encoder = small_encoder()
    with pytest.raises(CheckpointError, match=r"MeanPool does not say what its own are called there"):
        load_released(MeanPool(encoder, encoder), path)


def test_settings_that_change_tensors_are_those_of_the_method(small_encoder: Small, tmp_path: Path) -> None:
    path = cases.save(tmp_path / "a.bin", cases.weights(cases.clip()))
    with pytest.raises(CheckpointError, match=r"model\.interaction.*model\.weight_layers") as refused:
        load_released(DRL(following(small_encoder)), path)
    assert "cdcr_diagonal" not in str(refused.value)
    assert "optimizer" not in str(refused.value)


def test_a_logit_scale_of_half_precision_is_a_hundred(small_encoder: Small, tmp_path: Path) -> None:
    """log 100 in 16 bits is a little more."""
    scale = torch.tensor(100.0).log().half()
    assert scale.float().exp() > 100
    state = cases.weights(cases.clip4clip("meanP")) | {"clip.logit_scale": scale}
    model = CLIP4Clip(following(small_encoder), similarity="meanP")
    load_released(model, cases.save(tmp_path / "a.bin", state))
    assert float(model.logit_scale.log.detach().exp()) == pytest.approx(100, rel=0.01)  # type: ignore[union-attr]


def test_an_encoder_waits_for_openais_clip(small_encoder: Small) -> None:
    """Nothing is read for it, whatever it names, and its activation is known."""
    encoder = following(small_encoder, from_pretrained="openai")
    assert encoder.computation["quick_gelu"] is True
    assert encoder.pretrained
    with pytest.raises(ConfigError, match="quick_gelu is false"):
        following(small_encoder, quick_gelu=False)


def test_padding_that_is_left_out_is_said(
    small_encoder: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masked, attended = (XCLIP(small_encoder(), padding) for padding in ("masked", "attended"))  # type: ignore[arg-type]
    say_released(masked, tmp_path / "a.bin", {})
    assert "--model.padding=attended" in capsys.readouterr().err
    for model in (attended, CLIP4Clip(small_encoder())):
        say_released(model, tmp_path / "a.bin", {})
    assert not capsys.readouterr().err
    say_released(attended, tmp_path / "a.bin", {"x": "never called", "y": "never called"})
    assert capsys.readouterr().err == "tvr: a.bin: x, y left out: never called\n"
