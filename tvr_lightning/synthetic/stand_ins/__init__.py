"""What stands in for downloads on the embedded dataset: tiny encoders that have learned to see generated stills.

A still is one frame of a random scene, drawn as the `shapes` videos are but from another seed: training reads none of
the dataset's videos, captions or categories. The package carries the results, `synthetic/weights/`, which
`from_pretrained: shapes` names; `python -m tvr_lightning.synthetic.stand_ins` makes them again.
"""

from tvr_lightning.synthetic.stand_ins.clip import CLIPSettings, clip_recipe
from tvr_lightning.synthetic.stand_ins.files import Recipe
from tvr_lightning.synthetic.stand_ins.vgg import VGGSettings, vgg_recipe

__all__ = ["CLIPSettings", "Recipe", "VGGSettings", "clip_recipe", "vgg_recipe"]
