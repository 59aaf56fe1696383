"""X-CLIP's, X-Pool's and DRL's forms for score.py: all pairs written out at once, and what the suite computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import score_tc_mgc
import torch
from cases import Case, Form
from torch import Tensor

from tvr_lightning.methods.drl import DRL
from tvr_lightning.methods.xclip import XCLIP, FramesAndVideo
from tvr_lightning.methods.xpool import XPool
from tvr_lightning.types import SentenceFeatures


def features(case: Case, device: str) -> tuple[Any, Any]:
    """Features of full length: the dearest case."""
    texts, videos = score_tc_mgc.features(case, device)
    if case.method == "xpool":
        return SentenceFeatures(texts.sentence), videos
    if case.method == "xclip":
        return texts, FramesAndVideo(videos.frames, videos.frame_mask, videos.frames.flip(0), videos.frame_mask)
    return texts, videos


def forms(case: Case, device: str) -> tuple[torch.nn.Module, Mapping[str, Form]]:
    """The method, and its two forms from features to final score."""
    torch.manual_seed(0)
    encoder = score_tc_mgc.encoder(case.dim, case.words)
    if case.method == "xclip":
        xclip = _prepared(XCLIP(encoder, num_frames=case.frames), device)
        return xclip, {
            "at once": lambda t, v: xclip.logit_scale(xclip.contrast_scores(t, v).mean(-1)), "blocks": xclip.score
        }  # fmt: skip
    if case.method == "xpool":
        xpool = _prepared(XPool(encoder), device)

        def literal(texts: SentenceFeatures, videos: Any) -> Tensor:
            sentences = texts.sentence[:, None]
            cosines = xpool.pool.literal_cosines(sentences, videos.frames, videos.frame_mask, sentences)
            return xpool.logit_scale(cosines.flatten(1).T)

        return xpool, {"literal": literal, "low-rank": xpool.score}
    drl = _prepared(DRL(encoder, num_frames=case.frames), device)
    return drl, {
        "at once": lambda t, v: drl.logit_scale(drl.interact(t.words, t.word_mask, v.frames, v.frame_mask)),
        "blocks": drl.score,
    }  # fmt: skip


def _prepared(model: Any, device: str) -> Any:
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.to(device).eval()
