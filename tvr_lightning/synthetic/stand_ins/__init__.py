"""What stands in for downloads on the embedded dataset: tiny encoders that have learned to see generated stills.

A still is one frame of a random scene, drawn as the `shapes` videos are but from another seed: training reads none of
the dataset's videos, captions or categories.
"""

from tvr_lightning.synthetic.stand_ins.clip import CLIP_FILE, CLIPSettings, pretrain_clip
from tvr_lightning.synthetic.stand_ins.keeping import Pretrained
from tvr_lightning.synthetic.stand_ins.vgg import VGG_FILE, VGGSettings, pretrain_vgg

__all__ = [
    "CLIP_FILE",
    "VGG_FILE",
    "CLIPSettings",
    "Pretrained",
    "VGGSettings",
    "pretrain_clip",
    "pretrain_vgg",
]
