"""What every reader does with generated videos in its own layout.

Readers are those that `experiments/data/*.yaml` name; `--experiments FOLDER` names another folder.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Annotations
from tvr_lightning.data.tools.check import check_dataset
from tvr_lightning.errors import DataError
from tvr_lightning.run.reader import known_readers, reader_of
from tvr_lightning.synthetic.plan import plan_shapes
from tvr_lightning.synthetic.shapes import export_shapes

from ...kinds import composed

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "reader" in metafunc.fixturenames:
        files = sorted((metafunc.config.getoption("experiments") / "data").glob("*.yaml"))
        assert files
        metafunc.parametrize("reader", files, indirect=True, ids=[file.stem for file in files], scope="module")


@pytest.fixture(scope="module")
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    root = tmp_path_factory.mktemp("layout") / "data"
    made = reader_of(request.param, [f"--data.annotations.init_args.root={root}"])
    export_shapes(made)
    return made


def test_every_reader_of_the_suite_is_tried() -> None:
    named = {composed(f)["data"]["annotations"]["class_path"] for f in (EXPERIMENTS / "data").glob("*.yaml")}
    assert named >= set(known_readers())


def test_generated_videos_are_read_back(reader: Annotations) -> None:
    plan = plan_shapes(24).videos
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = {split: reader.load(split) for split in reader.splits}
    records = [record for split in loaded.values() for record in split]
    assert len({record.video_id for record in records}) == len(records) == 24
    counts = {split: sum(video.split == split for video in plan) for split in (TRAIN, VALIDATION, TEST)}
    assert len(loaded[TEST]) == counts[TEST]
    if VALIDATION in loaded:
        assert len(loaded[VALIDATION]) == counts[VALIDATION]
    # every caption says what some planned video's captions say; the test captions are those of the test videos
    told = {caption.lower(): video for video in plan for caption in video.captions}
    for split, members in loaded.items():
        for record in members:
            assert record.captions
            first = record.captions[0].lower().replace(".", "")
            owners = {video.split for caption, video in told.items() if caption in first}
            assert owners, record
            assert (TEST in owners) == (split == TEST), record


def test_every_generated_video_has_its_file(reader: Annotations) -> None:
    check = check_dataset(reader, workers=1)
    assert check.complete
    assert check.lists["unlisted"] == []


def test_faults_are_said(reader: Annotations, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'testing'"):
        reader.load("testing")
    with pytest.raises(DataError, match="nowhere"):
        type(reader)(tmp_path / "nowhere").load(TEST)  # type: ignore[call-arg]
