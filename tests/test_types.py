from __future__ import annotations

import torch

from tvr_lightning.types import VideoFeatures


def rows(count: int) -> VideoFeatures:
    return VideoFeatures(torch.arange(count * 6.0).view(count, 2, 3), torch.ones(count, 2, dtype=torch.bool))


def test_rows_are_selected_joined_and_moved_together() -> None:
    features = rows(4)
    assert len(features) == 4
    assert torch.equal(features[torch.tensor([2, 0])].frames, features.frames[[2, 0]])
    assert len(features[1:3].frame_mask) == 2
    joined = VideoFeatures.cat([features[:1], features[1:]])
    assert torch.equal(joined.frames, features.frames)
    assert features.to("meta").frame_mask.device.type == "meta"
