from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.data.augment import FrameAugmentation
from tvr_lightning.data.augment_text import TextAugmentation
from tvr_lightning.data.banks import caption_bank, video_bank
from tvr_lightning.data.dataset import Augmentation, SeededSampler
from tvr_lightning.data.word_pieces import WordPieces
from tvr_lightning.errors import ConfigError, DataError, DecodeError
from tvr_lightning.synthetic.scenes import PROBE_KINDS
from tvr_lightning.types import VideoTextBatch

Make = Callable[..., Any]


@pytest.fixture
def copy(shapes_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(shapes_root, tmp_path / "shapes")
    return tmp_path / "shapes"


def keys(batches: list[VideoTextBatch]) -> list[list[tuple[int, int]]]:
    return [list(zip(b.text.index.tolist(), b.video.index.tolist(), strict=True)) for b in batches]


def test_splits_and_batches_have_the_shapes_of_the_legend(make_data: Make) -> None:
    data = make_data()
    data.setup("fit")
    assert {n: len(s.records) for n, s in data.splits.items()} == {"validation": 4, "train": 12, "test": 8}
    batch = next(iter(data.train_dataloader()))
    assert batch.video.frames.shape == (4, 4, 3, 32, 32)
    assert batch.video.frames.dtype == torch.uint8
    assert batch.video.frame_mask.all()
    assert batch.text.tokens.shape == (4, 32)
    assert torch.equal(batch.text.video_index, batch.video.index)


def test_all_captions_or_one_random_caption_a_video(make_data: Make) -> None:
    for sampling, samples in (("all", 120), ("random", 12)):
        data = make_data(caption_sampling=sampling, batch_size=1)
        data.setup("fit")
        assert len(data.train_dataloader()) == samples
    seen = {k for epoch in range(30) for k in sum(keys(epoch_of(data, epoch)), [])}
    assert len(seen) > 60  # each epoch draws anew
    assert len({video for _, video in seen}) == 12


def epoch_of(data: Any, epoch: int) -> list[VideoTextBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_seed_and_epoch_fix_everything_whatever_the_workers(make_data: Make) -> None:
    def run(workers: int, seed: int, epoch: int) -> list[VideoTextBatch]:
        data = make_data(num_workers=workers, seed=seed, caption_sampling="random", jitter=True)
        data.setup("fit")
        return epoch_of(data, epoch)

    first = run(0, 1, 2)
    for workers in (0, 2):
        again = run(workers, 1, 2)
        assert keys(again) == keys(first)
        assert all(torch.equal(a.video.frames, b.video.frames) for a, b in zip(first, again, strict=True))
    assert keys(run(0, 1, 3)) != keys(first)
    assert keys(run(0, 2, 2)) != keys(first)


def test_ranks_share_an_epoch_without_overlap_and_step_alike() -> None:
    shares = [list(SeededSampler(11, seed=3, rank=r, world=3)) for r in range(3)]
    assert [len(s) for s in shares] == [3, 3, 3]
    assert len({key for share in shares for key in share}) == 9


@pytest.mark.parametrize(("length", "batch"), [(24, 2), (23, 2), (11, 1), (29, 4), (5, 4), (2, 1)])
def test_parts_of_a_batch_in_rank_order_are_that_of_one_process(length: int, batch: int) -> None:
    world = 3
    joined = batch * world
    one = list(SeededSampler(length, 3, joined))
    shares = [list(SeededSampler(length, 3, batch, rank, world)) for rank in range(world)]
    for step in range(length // joined):
        parts = [key for share in shares for key in share[step * batch : (step + 1) * batch]]
        assert parts == one[step * joined : (step + 1) * joined]
    assert [len(share) for share in shares] == [length // world] * world
    assert len({key for share in shares for key in share}) == length // world * world


def test_clips_of_one_source_follow_each_other(make_data: Make) -> None:
    data = make_data(keep_sources=True, batch_size=4)
    data.setup("fit")
    train = data.splits["train"]
    assert len({r.source for r in train.records}) < len(train.records)
    sampler: Any = data.train_dataloader().sampler
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = [position for position, _ in sampler]
        assert sorted(order) == list(range(len(train.captions)))
        sources = [train.records[int(train.captions.video_index[position])].source for position in order]
        assert len([a for a, b in pairwise(sources) if a != b]) == len(set(sources)) - 1
        orders.append(order)
    assert orders[0] != orders[1]


def test_sources_that_nobody_names(make_data: Make) -> None:
    data = make_data(keep_sources=True)
    data.setup("fit")
    train = data.splits["train"]
    data.splits["train"] = replace(train, records=tuple(replace(r, source=None) for r in train.records))
    with pytest.raises(ConfigError, match="name no sources"):
        data.train_dataloader()


def test_evaluation_sees_each_caption_and_each_video_once_in_order(make_data: Make) -> None:
    data = make_data(eval_batch_size=3)
    data.setup("validate")
    split = data.splits["validation"]
    captions, videos = data.val_dataloader()
    assert torch.cat([b.index for b in captions]).tolist() == list(range(40))
    assert torch.cat([b.video_index for b in captions]).tolist() == sum(([v] * 10 for v in range(4)), [])
    assert torch.cat([b.index for b in videos]).tolist() == list(range(4))
    assert len(split.captions) == 40


def test_probes_refer_to_rows(make_data: Make) -> None:
    data = make_data()
    data.setup("test")
    split = data.splits["test"]
    assert {kind for kind, _, _ in split.probes} == set(PROBE_KINDS)
    named = {p.videos for p in data.annotations.probes("test")}
    assert {(split.records[a].video_id, split.records[b].video_id) for _, a, b in split.probes} == named


@pytest.mark.parametrize(
    ("selection", "evaluated", "train"), [("auto", 4, 12), ("validation", 4, 12), ("test", 8, 12), ("holdout", 1, 11)]
)
def test_what_selects_a_checkpoint(make_data: Make, selection: str, evaluated: int, train: int) -> None:
    data = make_data(selection=selection)
    data.setup("fit")
    assert len(data.split_of("validate").records) == evaluated
    assert len(data.splits["train"].records) == train
    assert not {r.video_id for r in data.split_of("validate").records} & {
        r.video_id for r in data.splits["train"].records
    }


def test_last_validates_nothing(make_data: Make) -> None:
    data = make_data(selection="last")
    data.setup("fit")
    assert data.val_dataloader() == []


def test_asking_for_a_validation_split_that_is_not_there(make_data: Make, copy: Path) -> None:
    listed = (copy / "MSRVTT_data.json").read_text().replace('"validate"', '"train"')
    (copy / "MSRVTT_data.json").write_text(listed)
    assert make_data(root=copy).selection == "last"
    with pytest.raises(ConfigError, match=r"no validation split .* use holdout"):
        _ = make_data(root=copy, selection="validation").selection


def test_subset_takes_the_first_videos_of_each_split(make_data: Make) -> None:
    data = make_data(subset=3)
    data.setup("fit")
    assert {len(s.records) for s in data.splits.values()} == {3}
    assert data.splits["train"].listed == 12


def test_batch_larger_than_the_split(make_data: Make) -> None:
    data = make_data(batch_size=13, caption_sampling="random")
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"batch_size is 13, but MSR-VTT train has only 12 samples"):
        data.train_dataloader()


def test_missing_videos_of_a_gallery_stop_the_evaluation(make_data: Make, copy: Path) -> None:
    data = make_data(root=copy)
    data.setup("test")
    victim = data.splits["test"].records[2]
    victim.video_path.unlink()
    data = make_data(root=copy)
    with pytest.raises(
        DataError, match=rf"test: 1 of 8 listed videos have no file \({victim.video_id}; .*allow_missing"
    ):
        data.setup("fit")
    data = make_data(root=copy, allow_missing=True)
    with pytest.warns(UserWarning, match="are left out"):
        data.setup("test")
    split = data.splits["test"]
    assert split.missing == (victim.video_id,)
    assert len(split.records) == 7
    assert split.summary()["missing"] == 1
    assert all(victim.video_id != split.records[row].video_id for _, *pair in split.probes for row in pair)


def test_missing_training_videos_are_counted_and_named(make_data: Make, copy: Path) -> None:
    data = make_data(root=copy)
    data.setup("fit")
    victim = data.splits["train"].records[0]
    victim.video_path.unlink()
    data = make_data(root=copy)
    with pytest.warns(UserWarning, match=f"train: 1 of 12 listed videos have no file .{victim.video_id}"):
        data.setup("fit")
    assert data.splits["train"].missing == (victim.video_id,)


def test_no_video_at_all(make_data: Make, copy: Path) -> None:
    shutil.rmtree(copy / "videos")
    with pytest.raises(DataError, match=r"4 of 4 listed videos have no file .* Put the videos there"):
        make_data(root=copy).setup("fit")


def test_missing_annotations_name_the_folder(make_data: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder does not exist"):
        make_data(root=tmp_path / "nothing").setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_training_video_stops_or_is_counted(make_data: Make, copy: Path, workers: int) -> None:
    data = make_data(root=copy)
    data.setup("fit")
    victim = data.splits["train"].records[5]
    victim.video_path.write_bytes(b"")
    data.setup("fit")
    with pytest.raises(DecodeError, match=victim.video_path.name):
        list(data.train_dataloader())
    data = make_data(root=copy, on_decode_error="skip", caption_sampling="random", num_workers=workers)
    data.setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = list(data.train_dataloader())
    assert sum(len(b) for b in batches) == 11
    assert data.splits["train"].undecodable == (victim.video_id,)
    assert data.splits["train"].summary()["undecodable"] == 1


def test_truncated_captions_are_counted_and_keep_their_end(make_data: Make) -> None:
    data = make_data(max_words=6)
    data.setup("validate")
    captions = data.splits["validation"].captions
    assert captions.truncated > 0
    assert captions.truncated_nodes is None  # CLIP's tokeniser knows none
    assert "truncated_nodes" not in data.splits["validation"].summary()
    assert captions.mask.sum(1).max() == 6
    assert (captions.tokens.max(1).values == 49407).all()


def test_truncated_nodes_are_counted(make_data: Make) -> None:
    data = make_data(max_words=6, tokenizer=WordPieces(context_length=6))
    data.setup("fit")
    whole = WordPieces(context_length=64)
    whole.learn(data.splits["train"].captions.captions)
    for split in data.splits.values():
        nodes = whole(split.captions.captions).word.amax(1) + 1
        left = split.captions.word.amax(1) + 1
        assert split.summary()["truncated_nodes"] == int((nodes - left).sum()) > 0


def test_empty_caption_names_its_video(copy: Path, make_data: Make) -> None:
    import json

    content = json.loads((copy / "MSRVTT_data.json").read_text())
    content["sentences"][0]["caption"] = "  "
    (copy / "MSRVTT_data.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=content["sentences"][0]["video_id"]):
        make_data(root=copy).setup("fit")


def test_query_bank_is_seeded_and_reads_no_video(make_data: Make, copy: Path) -> None:
    shutil.rmtree(copy / "videos")
    banks = [torch.cat([b.tokens for b in caption_bank(make_data(root=copy, seed=seed), 15)]) for seed in (0, 0, 1)]
    assert banks[0].shape == (15, 32)
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


def test_a_bank_of_videos_is_a_seeded_choice_of_the_training_split(make_data: Make, copy: Path) -> None:
    def chosen(seed: int, size: int) -> list[int]:
        data = make_data(root=copy, seed=seed)
        data.setup("test")
        return [i for batch in video_bank(data, size) if batch is not None for i in batch.index.tolist()]

    first = chosen(0, 5)
    assert len(set(first)) == 5
    assert first == chosen(0, 5) != chosen(1, 5)
    data = make_data(root=copy)
    assert sorted(chosen(0, 1000)) == list(range(len(data.database_split().records)))


@pytest.mark.parametrize("join", [False, True])
def test_a_second_view_has_other_frames_and_another_wording(make_data, join):
    augment = Augmentation(FrameAugmentation(), TextAugmentation(replace=0, insert=0, swap=0.5, delete=0), every=2)
    data = make_data(augment=augment, join_captions=join, cache_frames=True, max_words=400)
    data.setup("fit")
    loader = data.train_dataloader()
    assert next(iter(loader)).augmented is None  # the first epoch
    loader.sampler.set_epoch(1)
    batch = next(iter(loader))
    second = batch.augmented
    assert torch.equal(second.video.index, batch.video.index)
    assert torch.equal(second.text.index, batch.text.index)
    assert not torch.equal(second.video.frames, batch.video.frames)
    assert not torch.equal(second.text.tokens, batch.text.tokens)
    bags = [sorted(rows.tolist()) for rows in (second.text.tokens[0], batch.text.tokens[0])]
    assert bags[0] == bags[1]  # words changed places only
    loader.sampler.set_epoch(1)
    again = next(iter(loader)).augmented
    assert torch.equal(again.video.frames, second.video.frames)
    assert torch.equal(again.text.tokens, second.text.tokens)


def test_joined_captions_are_one_text(make_data):
    data = make_data(join_captions=True)
    plain = make_data()
    data.setup("fit")
    plain.setup("fit")
    split, single = data.splits["train"], plain.splits["train"]
    assert len(split.captions) == len(split.records)
    assert split.captions.captions[2] == " ".join(single.records[2].captions)


def test_augmentation_out_of_range():
    with pytest.raises(ConfigError, match=r"augment\.every is 0"):
        Augmentation(every=0)
