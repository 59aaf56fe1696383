from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.evaluation.encoding import encode_items
from tvr_lightning.types import VideoInput


class Colours(nn.Module):
    """Mean colours through a layer, a frozen encoder; it moves to a device as modules move to a GPU: as new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("scale", torch.ones(()))

    def to(self, *_: Any, **__: Any) -> Colours:
        return self._apply(lambda x: x.clone())

    def features(self, video: VideoInput) -> torch.Tensor:
        return self.layer(video.frames.float().mean((-1, -2)) / self.scale)


@pytest.fixture
def new_parameters() -> Iterator[None]:
    """A module that moves gets new parameters, as between kinds of devices."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def test_what_moves_while_features_are_kept_can_be_trained(
    make_data: Callable[..., Any], new_parameters: None, tmp_path: Any
) -> None:
    data, module = make_data(cache_dir=str(tmp_path)), Colours()
    data.setup("fit")
    data.precompute_features(Frozen(module, module.features, "colours"), None, torch.device("cpu"))
    batch = next(iter(data.train_dataloader()))
    assert batch.video.features.shape[-1] == 4
    for tensor in (*module.parameters(), *module.buffers(), batch.video.features):
        assert not tensor.is_inference()
    module.layer(torch.ones(2, 3)).sum().backward()
    assert module.layer.weight.grad is not None


@pytest.mark.parametrize("kind", ["file", "full"])
def test_a_store_that_cannot_take_them_costs_time_and_no_more(
    make_data: Callable[..., Any], tmp_path: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Colours()
    if kind == "file":
        (tmp_path / "cache").write_text("")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    data = make_data(cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    with pytest.warns(UserWarning, match=r"features cannot be kept in .*computes them in each epoch") as said:
        data.precompute_features(Frozen(module, module.features, "colours"), None, torch.device("cpu"))
    assert sum("features cannot be kept" in str(w.message) for w in said) == 1  # of three splits
    batch = next(iter(data.train_dataloader()))
    assert batch.video.features.shape[-1] == 0
    assert batch.video.frames.shape[-1] == 32


class Encodes:
    """Moves its layer while it encodes."""

    training, device = False, torch.device("cpu")

    def __init__(self) -> None:
        self.colours = Colours()

    def train(self, mode: bool = True) -> Encodes:
        return self

    def encode(self, video: VideoInput) -> VideoInput:
        self.colours.to("elsewhere")
        return VideoInput(video.frames, video.frame_mask, video.index, self.colours.features(video))


def test_what_moves_while_it_encodes_can_be_trained(make_data: Callable[..., Any], new_parameters: None) -> None:
    data, method = make_data(), Encodes()
    data.setup("test")
    clips = data.evaluation_loaders(data.split_of("test"))[1]
    features, _ = encode_items(method, method.encode, clips)
    assert not features.features.requires_grad
    for tensor in (*method.colours.parameters(), features.features):
        assert not tensor.is_inference()
