"""What tensors are called in the checkpoints of methods' released code; `run.released` loads them by it.

A method declares its names as data: `RetrievalModule.released_names`. What the CLIP4Clip family shares stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tvr_lightning.nn.temporal import TemporalTransformer

Names = Mapping[str, str]


class Place(NamedTuple):
    """Where a tensor of the suite lies in a released checkpoint.

    Attributes:
        name: its name there.
        transposed: whether the matrix multiplies a row from the right there.
    """

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class ReleasedNames:
    """Names of a method's tensors in the checkpoints of its released code.

    Attributes:
        names: by the own name of a part or of a tensor; of several that fit, the longest counts.
        transposed: the same for matrices D x D' that multiply a row from the right there, `x @ W`.
        unused: what a released checkpoint has besides, a part or a tensor, and why it is left out.
        absent: own tensors that it has not, and why they are zero then.

    >>> names = ReleasedNames({"temporal": "old", "temporal.norm": "ln"}, {"map.weight": "mat"}, {"spare": "idle"})
    >>> names.of("temporal.layer.bias"), names.of("temporal.norm.bias"), names.of("other")
    (Place(name='old.layer.bias', transposed=False), Place(name='ln.bias', transposed=False), None)
    >>> names.of("map.weight"), names.why_unused("spare.weight")
    (Place(name='mat', transposed=True), 'idle')
    """

    names: Names
    transposed: Names = field(default_factory=dict)
    unused: Names = field(default_factory=dict)
    absent: Names = field(default_factory=dict)

    def of(self, own: str) -> Place | None:
        """Where an own tensor lies; None where nothing is said of it."""
        if own in self.transposed:
            return Place(self.transposed[own], transposed=True)
        part = _longest(own, self.names)
        return None if part is None else Place(self.names[part] + own[len(part) :])

    def why_unused(self, released: str) -> str | None:
        """Why a tensor of a released checkpoint is left out; None where it is not."""
        part = _longest(released, self.unused)
        return None if part is None else self.unused[part]


def _longest(name: str, parts: Names) -> str | None:
    found = [part for part in parts if name == part or name.startswith(f"{part}.")]
    return max(found, key=len, default=None)


CLIP_NAMES: Names = {"encoder.clip": "clip", "logit_scale.log": "clip.logit_scale"}
_BLOCK = {
    **{"self_attn": "attn", "norm1": "ln_1", "norm2": "ln_2"},
    **{"linear1": "mlp.c_fc", "linear2": "mlp.c_proj"},
}


def block_names(own: str, released: str, count: int) -> Names:
    """Names of transformer layers, which are residual attention blocks of CLIP's there.

    >>> block_names("temporal.layers", "transformerClip.resblocks", 1)["temporal.layers.0.linear1"]
    'transformerClip.resblocks.0.mlp.c_fc'
    """
    return {f"{own}.{i}.{a}": f"{released}.{i}.{b}" for i in range(count) for a, b in _BLOCK.items()}


def temporal_names(temporal: TemporalTransformer) -> Names:
    """Names of CLIP4Clip's seqTransf, which a method holds as `temporal`."""
    layers = block_names("temporal.layers", "transformerClip.resblocks", len(temporal.layers))
    return {"temporal.positions": "frame_position_embeddings", **layers}


def selection_names() -> Names:
    """Names of TS2-Net's token selection, which a method holds as `select`."""
    there = {"norm": "in_conv.0", "reduce": "in_conv.1", "mix": "out_conv.0", "rate": "out_conv.2"}
    return {f"select.scores.{a}": f"visual_token_selector.score_predictor.{b}" for a, b in there.items()}
