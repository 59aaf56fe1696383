"""VGG through torchvision's layout and weights: one vector per frame (Simonyan & Zisserman 2015)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.checkpoint import checkpoint

from tvr_lightning.data.stores.hub import before_fetching
from tvr_lightning.encoders.base import FrameEncoder
from tvr_lightning.encoders.kept import finish, kept_computation
from tvr_lightning.encoders.weights import (
    SUFFIXES,
    Fingerprint,
    differences,
    find_weight_file,
    read_state_dict,
    shipped_weights,
    weight_mismatch,
)
from tvr_lightning.errors import CheckpointError, ConfigError, nearest

# of ImageNet in 0..1, which torchvision's weights were trained with
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TAG = "IMAGENET1K_V1"
_CHUNK = 64


@dataclass(frozen=True)
class VGGSize:
    """A VGG of any size: blocks of 3 x 3 convolutions, each halving height and width, then two linear layers.

    Attributes:
        image_size: height and width of a frame in pixels.
        blocks: output channels of each block's convolutions.
        pooled: height and width that the last block's output is averaged to.
        hidden_dim: width of the first linear layer.
        embed_dim: D, width of the second.
    """

    image_size: int
    blocks: tuple[tuple[int, ...], ...]
    pooled: int
    hidden_dim: int
    embed_dim: int


VGG_PRESETS = {
    "vgg16": VGGSize(
        image_size=224,
        blocks=((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
        pooled=7,
        hidden_dim=4096,
        embed_dim=4096,
    ),
    "tiny": VGGSize(image_size=64, blocks=((16,), (32,), (64,), (128,)), pooled=4, hidden_dim=256, embed_dim=128),
}


class VGGEncoder(FrameEncoder):
    """VGG's second fully connected layer (fc7) of every frame; nothing is normalised.

    The features are those after the layer's ReLU. LEAN (Eq. 2) and SPTCH (Sec. 4.1.3) give their 4096 dimensions only;
    video papers that are more exact take fc7 after its ReLU (Venugopalan et al. 2015, Sec. 3.3). torchvision's ImageNet
    weights stand in for the TensorFlow port of the first release that LEAN names.

    Random weights are He et al.'s (2015, Eq. 10) in every layer, which keep the signal through a VGG that has neither
    batch norms nor dropout: a frame's features depend on that frame alone, in training mode too.

    Args:
        model: `vgg16`, or the preset `tiny`; not used when `size` is given.
        from_pretrained: None for random weights; `IMAGENET1K_V1` for torchvision's, downloaded once (`vgg16` only); or
            a local file in torchvision's layout, from `torch.save` or safetensors, whose last, classifying layer is
            left out; or a run, whose encoder is taken (see `encoders.of_runs`).
        size: any other size, instead of a named one.
        freeze: freezes everything and keeps evaluation mode.
        gradient_checkpointing: computes each block's activations again in the backward pass instead of keeping them.

    Attributes:
        embed_dim: D.
        image_size: height and width in pixels that `encode_frames` takes.
        freeze: whether nothing is trained.
        pretrained: whether weights were loaded.

    Raises:
        ConfigError: an unknown name, or sizes that describe no model.
        CheckpointError: weights that cannot be fetched or read, or that belong to another model.
    """

    smallest: ClassVar = {"model": "tiny", "size": None, "from_pretrained": None}
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: str = "vgg16",
        from_pretrained: str | None = None,
        *,
        size: VGGSize | None = None,
        freeze: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if size is None and model not in VGG_PRESETS:
            raise ConfigError(f"Unknown VGG '{model}': {nearest(model, VGG_PRESETS)}")
        self.size = size or VGG_PRESETS[model]
        self.name = model if self.size == VGG_PRESETS.get(model) else "VGGSize"
        _check(self.size)
        self.from_pretrained = from_pretrained
        self.computation = {"size": asdict(self.size), "features": "fc7 after ReLU", "mean": _MEAN, "std": _STD}
        kept = kept_computation(self, {"size": self.computation["size"]})
        weights = None if kept or from_pretrained is None else _read(self.name, from_pretrained)
        self.features, self.classifier = _layers(self.size)
        self.embed_dim = self.size.embed_dim
        self.image_size = self.size.image_size
        self.freeze = freeze
        self.pretrained = self.from_pretrained is not None
        self.gradient_checkpointing = gradient_checkpointing
        if weights is None:
            self._initialise()
        else:
            self._load(*weights)
        finish(self)
        # statistics of pixels in 0..255
        self.register_buffer("pixel_mean", 255 * torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self._fingerprint = Fingerprint()
        if freeze:
            self.requires_grad_(False)
        self.train()

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames one by one; on the CPU, masked ones are not computed at all."""
        self.check_frames(frames, frame_mask)
        if frames.device.type != "cpu":  # gathering would have to wait for the device
            features = self._encode(frames.flatten(0, 1)).unflatten(0, frame_mask.shape)  # (V, n, D)
            return cast(Tensor, features.masked_fill(~frame_mask.unsqueeze(-1), 0.0))
        valid = self._encode(frames[frame_mask])
        features = valid.new_zeros(*frame_mask.shape, self.embed_dim)
        features[frame_mask] = valid
        return features

    def fingerprint(self) -> str:
        """Names weights and computation: equal names, equal features. Hashed once where nothing is trained."""
        return self._fingerprint.of(self, self.computation)

    def _encode(self, frames: Tensor) -> Tensor:
        # a few at a time: the first block's activations are some 40 times the size of the pixels
        return torch.cat([self._encode_chunk(chunk) for chunk in frames.split(_CHUNK)])

    def _encode_chunk(self, frames: Tensor) -> Tensor:
        # channels last is what convolutions compute in
        pixels = frames.contiguous(memory_format=torch.channels_last).to(self.pixel_mean.dtype)  # (B, 3, S, S)
        x = (pixels - self.pixel_mean) / self.pixel_std
        start = 0
        for block in self.size.blocks:
            end = start + 2 * len(block) + 1  # convolutions with their ReLU, and the pooling
            layers, start = self.features[start:end], end
            save = self.gradient_checkpointing and torch.is_grad_enabled() and not self.freeze
            x = checkpoint(layers, x, use_reentrant=False) if save else layers(x)
        x = nn.functional.adaptive_avg_pool2d(x, self.size.pooled).flatten(1)  # (B, C * pooled * pooled)
        return cast(Tensor, self.classifier(x))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))

    def _load(self, source: str, found: Mapping[str, Tensor]) -> None:
        last = ("classifier.6.weight", "classifier.6.bias")
        state = {name: value for name, value in found.items() if name not in last}
        problems = differences(self.state_dict(), state)
        if problems:
            raise weight_mismatch(source, self.name, problems)
        self.load_state_dict(state)


def _layers(size: VGGSize) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns torchvision's `features`, and its `classifier` up to fc7 without the dropout."""
    device = torch.get_default_device()
    features: list[nn.Module] = []
    channels = 3
    for block in size.blocks:
        for width in block:
            features += [
                skip_init(nn.Conv2d, channels, width, kernel_size=3, padding=1, device=device),
                nn.ReLU(inplace=True),
            ]
            channels = width
        features.append(nn.MaxPool2d(2))
    classifier: OrderedDict[str, nn.Module] = OrderedDict()  # torchvision's names, which count the dropouts
    classifier["0"] = skip_init(nn.Linear, channels * size.pooled**2, size.hidden_dim, device=device)
    classifier["1"] = nn.ReLU(inplace=True)
    classifier["3"] = skip_init(nn.Linear, size.hidden_dim, size.embed_dim, device=device)
    classifier["4"] = nn.ReLU(inplace=True)
    return nn.Sequential(*features), nn.Sequential(classifier)


def _check(size: VGGSize) -> None:
    numbers = {"image_size": size.image_size, "pooled": size.pooled, "hidden_dim": size.hidden_dim}
    wrong = [f"{name}={value}" for name, value in (numbers | {"embed_dim": size.embed_dim}).items() if value < 1]
    if not size.blocks or any(not block or min(block) < 1 for block in size.blocks):
        wrong.append(f"blocks={size.blocks}")
    elif size.image_size >> len(size.blocks) < 1:
        wrong.append(f"image_size={size.image_size} cannot be halved {len(size.blocks)} times")
    if wrong:
        raise ConfigError(f"VGGSize does not describe a model: {'; '.join(wrong)}.")


def _read(name: str, source: str) -> tuple[str, Mapping[str, Tensor]]:
    """Returns where the weights come from, and the weights."""
    if source == _TAG and name == "vgg16":
        return f"torchvision's {_TAG}", _download()
    shipped = shipped_weights("vgg", name)
    path = shipped.get(source, Path(source).expanduser())
    if path.exists():
        file = find_weight_file(path)
        return str(file), read_state_dict(file)
    known = ", or ".join([*shipped, *([_TAG] if name == "vgg16" else []), "a local file"])
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise CheckpointError(f"No weights at {path}. Check from_pretrained; {name} takes {known}.")
    raise ConfigError(f"{name} has no pretrained weights '{source}' and no such path exists. It takes {known}.")


def _download() -> Mapping[str, Tensor]:
    from torchvision.models import VGG16_Weights

    before_fetching(f"vgg16 {_TAG}")
    url = VGG16_Weights.IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        raise CheckpointError(
            f"The weights {_TAG} of vgg16 could not be downloaded from {url} ({type(error).__name__}). Without a "
            f"network, fetch that file elsewhere and set from_pretrained to it, or put it at {kept}."
        ) from error
