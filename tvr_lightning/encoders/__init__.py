"""Encoders: what one offers, and CLIP, BERT and VGG, each built from a size preset or from weights."""

from tvr_lightning.encoders.base import DualEncoder, Encoder, FrameEncoder, TextEncoder
from tvr_lightning.encoders.bert import BERT_PRESETS, BERTEncoder, BERTSize, pool_words
from tvr_lightning.encoders.clip import CLIPEncoder
from tvr_lightning.encoders.clip_config import PRESETS, CLIPSize
from tvr_lightning.encoders.clip_weights import CLIPWeights, read_clip_weights
from tvr_lightning.encoders.vgg import VGG_PRESETS, VGGEncoder, VGGSize
from tvr_lightning.encoders.weights import read_state_dict

__all__ = [
    "BERT_PRESETS",
    "PRESETS",
    "VGG_PRESETS",
    "BERTEncoder",
    "BERTSize",
    "CLIPEncoder",
    "CLIPSize",
    "CLIPWeights",
    "DualEncoder",
    "Encoder",
    "FrameEncoder",
    "TextEncoder",
    "VGGEncoder",
    "VGGSize",
    "pool_words",
    "read_clip_weights",
    "read_state_dict",
]
