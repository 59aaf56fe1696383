"""Encoders: CLIP, BERT and VGG, each built from a size preset or from weights."""

from tvr_lightning.encoders.clip import PRESETS, CLIPEncoder, CLIPSize
from tvr_lightning.encoders.clip_weights import CLIPWeights, read_clip_weights
from tvr_lightning.encoders.weights import read_state_dict

__all__ = [
    "PRESETS",
    "CLIPEncoder",
    "CLIPSize",
    "CLIPWeights",
    "read_clip_weights",
    "read_state_dict",
]
