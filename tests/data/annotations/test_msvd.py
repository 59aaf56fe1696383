import json
import pickle
import re

import pytest

from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.errors import ConfigError, DataError

from ..layouts import MSVD_IDS, msvd_tokens, write_json, write_msvd

TABLE = {i: [" ".join(c) for c in msvd_tokens(i)] for ids in MSVD_IDS.values() for i in ids}


@pytest.fixture
def root(tmp_path):
    write_msvd(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("validation", "val"), ("test", "test")])
def test_records(root, split, name):
    records = MSVD(root).load(split)
    assert [r.video_id for r in records] == MSVD_IDS[name]
    assert [r.captions for r in records] == [(f"a man in {i}", "it s raining") for i in MSVD_IDS[name]]
    assert [r.video_path for r in records] == [root / "videos" / f"{i}.avi" for i in MSVD_IDS[name]]
    assert {(r.labels, r.start, r.end) for r in records} == {((), None, None)}


def test_leading_dash_and_other_extensions(root):
    (root / "clips").mkdir()
    for name in ("-4wsuPCjDBc_5_15.mp4", "-4wsuPCjDBc_5_15.avi", "_x1y2z3_0_9.mp4"):
        (root / "clips" / name).touch()
    names = [r.video_path.name for r in MSVD(root, videos="clips").load("train")]
    assert names == ["-4wsuPCjDBc_5_15.avi", "_x1y2z3_0_9.mp4", "mv89psg6zh4_33_46.avi"]


@pytest.mark.parametrize("tokens", [True, False])
def test_json_captions(root, tokens):
    plain = MSVD(root).load("test")
    write_json(root / "captions.json", {i: msvd_tokens(i) if tokens else TABLE[i] for i in TABLE})
    (root / "raw-captions.pkl").unlink()
    assert MSVD(root, captions="captions.json").load("test") == plain


def test_captions_file_of_another_kind(root):
    with pytest.raises(ConfigError, match=r"captions is 'captions.txt'; expected a .pkl or a .json"):
        MSVD(root, captions="captions.txt")


def test_a_list_that_is_absent_matters_only_to_its_split(root):
    (root / "val_list.txt").unlink()
    with pytest.warns(UserWarning, match=r"1 videos of .*raw-captions.pkl are in no list .*: bQJQGoJF7_k_162_169"):
        assert len(MSVD(root).load("test")) == 2
    with pytest.raises(DataError, match=r"no 'val_list.txt'"):
        MSVD(root).load("validation")


FAULTS = [
    ([], "expected an object {video id: .captions.}, found list"),
    ({}, "found an empty dict"),
    ({"annotations": [{"video": "a"}]}, r"annotations: caption 0: expected a text or a list of tokens, found dict"),
    ({**TABLE, "f-24IxG9ijw_25_40": "a dog"}, "f-24IxG9ijw_25_40: expected a list of captions, found str 'a dog'"),
    ({**TABLE, "f-24IxG9ijw_25_40": [["a", 3]]}, r"caption 0: expected a text or a list of tokens, found list \['a'"),
    ({**TABLE, "f-24IxG9ijw_25_40": ["a", " \n"]}, "f-24IxG9ijw_25_40: caption 1 is empty"),
    ({**TABLE, "f-24IxG9ijw_25_40": [[]]}, "caption 0 is empty"),
    ({**TABLE, "f-24IxG9ijw_25_40": []}, "1 of 2 videos have no caption in .*: f-24IxG9ijw_25_40"),
    ({**TABLE, "../x": [["a"]]}, r"'\.\./x' is not a file name inside"),
]


@pytest.mark.parametrize("suffix", ["pkl", "json"])
@pytest.mark.parametrize(("value", "message"), FAULTS)
def test_broken_captions(root, suffix, value, message):
    name = f"captions.{suffix}"
    (root / name).write_bytes(pickle.dumps(value) if suffix == "pkl" else json.dumps(value).encode())
    with pytest.raises(DataError, match=message):
        MSVD(root, captions=name).load("test")


def test_pickle_with_ids_that_are_numbers(root):
    (root / "raw-captions.pkl").write_bytes(pickle.dumps({1: [["a"]]}))
    with pytest.raises(DataError, match="video ids must be texts, found 1"):
        MSVD(root).load("test")


def test_real_files(real_annotations, recwarn):
    folder = real_annotations("msvd")
    reader = MSVD(folder)
    splits = {split: reader.load(split) for split in reader.splits}
    assert not recwarn
    assert {s: len(r) for s, r in splits.items()} == {"train": 1_200, "validation": 100, "test": 670}
    captions = {s: sum(len(r.captions) for r in records) for s, records in splits.items()}
    assert captions == {"train": 48_774, "validation": 4_290, "test": 27_763}
    everything = [r for records in splits.values() for r in records]
    assert len({r.video_id for r in everything}) == 1_970
    assert sum(r.video_id[0] in "-_" for r in everything) == 79
    assert (min(len(r.captions) for r in everything), max(len(r.captions) for r in everything)) == (18, 81)
    assert splits["train"][0].captions[1] == "a chipmunk is eating"
    assert not [c for r in everything for c in r.captions if re.search(r"\s\s|^\s|\s$|[^\S ]", c) or not c]


def test_real_lists_lack_their_last_line_end(real_annotations):
    folder = real_annotations("msvd")
    ends = {s: (folder / f"{s}_list.txt").read_bytes()[-1:] == b"\n" for s in ("train", "val", "test")}
    assert ends == {"train": False, "val": False, "test": True}
