"""Pictures in the tracker after a test, also of runs whose frozen frames are kept as features."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tvr_lightning.commands.main import main
from tvr_lightning.run.smoke import smoke_arguments

from ...kinds import first_fast

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("name", "key"), first_fast([("clip4clip_shapes", "similarity"), ("ghan_shapes", "weights")]))
@pytest.mark.slow
def test_a_tracker_gets_pictures(name: str, key: str, shapes_root: Path, tmp_path: Path) -> None:
    file = ROOT / f"experiments/{name}.yaml"
    small = [a for a in smoke_arguments(file, shapes_root, tmp_path) if "fast_dev" not in a]
    frozen = "--model.init_args.encoder.init_args.freeze_image=true"
    assert main(["fit", *small, "--trainer.max_epochs=1", "--tracker=tensorboard", "--run_id=a", frozen]) == 0
    (folder,) = {events.parent for events in tmp_path.rglob("events.out.tfevents.*")}
    logged = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    found = sorted(tag for tag in logged.Tags()["images"] if tag.startswith(key))
    assert found == [f"{key}/{i}" for i in range(len(found))]
    assert found
    for tag in found:
        assert min(logged.Images(tag)[0].width, logged.Images(tag)[0].height) > 200
