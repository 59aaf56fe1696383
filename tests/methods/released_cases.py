"""Checkpoints in the layouts of methods' released code, of random weights, and CLIP as that code computes it.

Nothing here asks the suite what tensors are called: the names are those of the released files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, HEADS, CONTEXT, TOKENS, PATCH, GRID = 32, 2, 77, 49408, 16, 2
LAYERS = 2  # of what looks at frames
Shapes = dict[str, tuple[int, ...]]
HALF = ("conv1.weight", "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias", "c_fc.weight",
        "c_fc.bias", "c_proj.weight", "c_proj.bias", "text_projection", "visual.proj")  # fmt: skip


def blocks(prefix: str, count: int, width: int = WIDTH) -> Shapes:
    """Residual attention blocks of CLIP's."""
    one: Shapes = {
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    return {f"{prefix}.resblocks.{i}.{name}": shape for i in range(count) for name, shape in one.items()}


def clip() -> Shapes:
    """OpenAI's names, of a tower of one block each."""
    return {
        "clip.visual.conv1.weight": (WIDTH, 3, PATCH, PATCH), "clip.visual.class_embedding": (WIDTH,),
        "clip.visual.positional_embedding": (GRID**2 + 1, WIDTH), "clip.visual.proj": (WIDTH, WIDTH),
        "clip.visual.ln_pre.weight": (WIDTH,), "clip.visual.ln_pre.bias": (WIDTH,),
        "clip.visual.ln_post.weight": (WIDTH,), "clip.visual.ln_post.bias": (WIDTH,),
        **blocks("clip.visual.transformer", 1), **blocks("clip.transformer", 1),
        "clip.token_embedding.weight": (TOKENS, WIDTH), "clip.positional_embedding": (CONTEXT, WIDTH),
        "clip.ln_final.weight": (WIDTH,), "clip.ln_final.bias": (WIDTH,),
        "clip.text_projection": (WIDTH, WIDTH), "clip.logit_scale": (),
    }  # fmt: skip


def sequence() -> Shapes:
    """CLIP4Clip's seqTransf, as the whole family has it."""
    return {"frame_position_embeddings.weight": (CONTEXT, WIDTH), **blocks("transformerClip", LAYERS)}


def clip4clip(similarity: str) -> Shapes:
    """CLIP4Clip's own."""
    if similarity == "seqTransf":
        return clip() | sequence()
    if similarity == "seqLSTM":
        gates = (4 * WIDTH, WIDTH)
        lstm = {"weight_ih_l0": gates, "weight_hh_l0": gates, "bias_ih_l0": gates[:1], "bias_hh_l0": gates[:1]}
        return {**clip(), "frame_position_embeddings.weight": (CONTEXT, WIDTH),
                **{f"lstm_visual.{name}": shape for name, shape in lstm.items()}}  # fmt: skip
    if similarity == "tightTransf":
        return {
            **clip(), **blocks("cross.transformer", LAYERS), "cross.embeddings.position_embeddings.weight": (77, WIDTH),
            "cross.pooler.ln_pool.weight": (WIDTH,), "cross.pooler.ln_pool.bias": (WIDTH,),
            "cross.pooler.dense.weight": (WIDTH, WIDTH), "cross.pooler.dense.bias": (WIDTH,),
            "similarity_dense.weight": (1, WIDTH), "similarity_dense.bias": (1,),
        }  # fmt: skip
    return clip()


def xclip(words: int, frames: int) -> Shapes:
    """X-CLIP's."""
    own: Shapes = dict.fromkeys(("global_mat_weight", "local_mat_weight"), (WIDTH, WIDTH))
    own |= dict.fromkeys(("word_logit_weight", "word_mat_weight", "word_mat_weight2"), (words, words))
    own |= dict.fromkeys(("frame_logit_weight", "frame_mat_weight", "frame_mat_weight2"), (frames, frames))
    return clip() | sequence() | own


def selector(name: str = "visual_token_selector") -> Shapes:
    """TS2-Net's token selection."""
    half = WIDTH // 2
    return {
        f"{name}.score_predictor.in_conv.0.weight": (WIDTH,), f"{name}.score_predictor.in_conv.0.bias": (WIDTH,),
        f"{name}.score_predictor.in_conv.1.weight": (half, WIDTH),
        f"{name}.score_predictor.out_conv.0.weight": (half, WIDTH),
        f"{name}.score_predictor.out_conv.2.weight": (1, half),
    }  # fmt: skip


def ts2net() -> Shapes:
    """TS2-Net's: the only block of the small tower shifts."""
    shifted = {n.replace(".attn.", ".attn.net.") if ".visual." in n else n: shape for n, shape in clip().items()}
    return {
        **shifted, **sequence(), **selector(), **selector("text_token_selector"), "visual_prompt_encoder.x": (3, WIDTH)
    }  # fmt: skip


def ucofia(words: int, frames: int, patches: int) -> Shapes:
    """UCoFiA's."""
    maps = ("global_mat_weight", "global_mat_weight_1", "local_mat_weight", "local_mat_weight1")
    own: Shapes = dict.fromkeys(maps, (WIDTH, WIDTH))
    of_words = ("word_logit_weight", "word_mat_weight", "word_mat_weight2", "word_mat_weight_for_pixel")
    own |= dict.fromkeys(of_words, (words, words))
    own |= dict.fromkeys(("frame_logit_weight", "frame_mat_weight", "frame_mat_weight2"), (frames, frames))
    own |= dict.fromkeys(("pixel_mat_weight", "pixel_mat_weight2"), (frames * patches, frames * patches))
    return clip() | sequence() | selector() | own


def drl(layers: int) -> Shapes:
    """DRL's wti: one linear layer has no number."""
    own: Shapes = {}
    for name in ("text_weight_fc", "video_weight_fc"):
        for i in range(layers - 1):
            own |= {f"{name}.{2 * i}.weight": (WIDTH, WIDTH), f"{name}.{2 * i}.bias": (WIDTH,)}
        last = f"{name}.{2 * layers - 2}" if layers > 1 else name
        own |= {f"{last}.weight": (1, WIDTH), f"{last}.bias": (1,)}
    return clip() | sequence() | own


def hugging_face_clip() -> Shapes:
    """CLIPModel's names, below `clip.`, of the same size; its text tower has the buffer of older releases."""
    both: Shapes = {}
    for tower in ("text_model", "vision_model"):
        layer = f"clip.{tower}.encoder.layers.0."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            both |= {f"{layer}self_attn.{part}.weight": (WIDTH, WIDTH), f"{layer}self_attn.{part}.bias": (WIDTH,)}
        both |= {f"{layer}mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{layer}mlp.fc1.bias": (4 * WIDTH,)}
        both |= {f"{layer}mlp.fc2.weight": (WIDTH, 4 * WIDTH), f"{layer}mlp.fc2.bias": (WIDTH,)}
        norms = [f"{layer}layer_norm1", f"{layer}layer_norm2"]
        norms += ["clip.text_model.final_layer_norm"] if tower == "text_model" else [
            "clip.vision_model.pre_layrnorm", "clip.vision_model.post_layernorm"]  # fmt: skip
        both |= {f"{norm}.{kind}": (WIDTH,) for norm in norms for kind in ("weight", "bias")}
    return {
        **both, "clip.logit_scale": (), "clip.text_projection.weight": (WIDTH, WIDTH),
        "clip.visual_projection.weight": (WIDTH, WIDTH), "clip.text_model.embeddings.position_ids": (1, CONTEXT),
        "clip.text_model.embeddings.token_embedding.weight": (TOKENS, WIDTH),
        "clip.text_model.embeddings.position_embedding.weight": (CONTEXT, WIDTH),
        "clip.vision_model.embeddings.class_embedding": (WIDTH,),
        "clip.vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "clip.vision_model.embeddings.position_embedding.weight": (GRID**2 + 1, WIDTH),
    }  # fmt: skip


def xpool() -> Shapes:
    """X-Pool's."""
    own: Shapes = {}
    linear = ("cross_attn.q_proj", "cross_attn.k_proj", "cross_attn.v_proj", "cross_attn.out_proj", "linear_proj")
    for name in linear:
        own |= {f"pool_frames.{name}.weight": (WIDTH, WIDTH), f"pool_frames.{name}.bias": (WIDTH,)}
    for name in ("layer_norm1", "layer_norm2", "layer_norm3"):
        own |= {f"pool_frames.{name}.weight": (WIDTH,), f"pool_frames.{name}.bias": (WIDTH,)}
    return hugging_face_clip() | own


def weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights, CLIP's matrices in half precision; norms near 1, the logit scale of 20."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        x = 0.2 * torch.randn(shape, generator=generator)
        if "ln_" in name or "norm" in name or "in_conv.0" in name:
            x = x + 1 if name.endswith("weight") else x
        if name == "clip.logit_scale":
            x = torch.tensor(3.0)
        if name.endswith("position_ids"):
            x = torch.arange(CONTEXT)[None]
        state[name] = x.half() if name.startswith("clip.") and name.endswith(HALF) else x
    return state


def save(path: Path, state: Mapping[str, Tensor], wrapped: bool = False, nested: bool = False) -> Path:
    """As released code saves it: under `module.` of DataParallel, or below `state_dict` beside other things."""
    named = {f"module.{name}" if wrapped else name: x for name, x in state.items()}
    torch.save({"epoch": 3, "state_dict": named} if nested else named, path)
    return path


def attend(x: Tensor, state: Mapping[str, Tensor], name: str, heads: int, mask: Tensor) -> Tensor:
    """Self-attention of (N, L, D), head by head; the mask (N, L, L) is added to logits."""
    q, k, v = F.linear(x, state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]).chunk(3, dim=-1)
    size = x.shape[-1] // heads
    parts = []
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        logits = q[..., own] @ k[..., own].mT / size**0.5 + mask
        parts.append(logits.softmax(-1) @ v[..., own])
    return F.linear(torch.cat(parts, -1), state[f"{name}.out_proj.weight"], state[f"{name}.out_proj.bias"])


def norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def transformer(x: Tensor, state: Mapping[str, Tensor], name: str, heads: int, mask: Tensor) -> Tensor:
    """All blocks of a tower over (N, L, D)."""
    for i in _numbers(state, f"{name}.resblocks."):
        block = f"{name}.resblocks.{i}"
        x = x + attend(norm(x, state, f"{block}.ln_1"), state, f"{block}.attn", heads, mask)
        y = norm(x, state, f"{block}.ln_2")
        y = F.linear(y, state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return x


def _numbers(state: Mapping[str, Tensor], prefix: str) -> Iterator[int]:
    yield from sorted({int(n.removeprefix(prefix).partition(".")[0]) for n in state if n.startswith(prefix)})


def image_features(pixels: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Normalised pictures (N, 3, S, S) to (N, D)."""
    x = F.conv2d(pixels, state["clip.visual.conv1.weight"], stride=PATCH).flatten(2).mT
    classes = state["clip.visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([classes, x], dim=1) + state["clip.visual.positional_embedding"]
    x = norm(x, state, "clip.visual.ln_pre")
    x = transformer(x, state, "clip.visual.transformer", HEADS, x.new_zeros(1, 1, 1))
    return norm(x[:, 0], state, "clip.visual.ln_post") @ state["clip.visual.proj"]


def word_features(tokens: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Captions (T, m), padded with 0, to sentences (T, D) and all words (T, m, D)."""
    x = state["clip.token_embedding.weight"][tokens] + state["clip.positional_embedding"][: tokens.shape[1]]
    causal = torch.full((tokens.shape[1],) * 2, float("-inf"), dtype=x.dtype).triu(1)
    x = norm(transformer(x, state, "clip.transformer", HEADS, causal), state, "clip.ln_final")
    x = x @ state["clip.text_projection"]
    return x[torch.arange(len(x)), tokens.argmax(-1)], x
