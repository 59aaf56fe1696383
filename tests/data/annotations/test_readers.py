"""What every reader owes, good files and bad ones alike."""

import json
import os
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.data.annotations.base import VideoFolder
from tvr_lightning.data.annotations.readers import read_json, read_list, read_pickle
from tvr_lightning.errors import ConfigError, DataError

from ..layouts import READERS, WRITERS

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
# the file that a reader opens for `train`, and what its text holds for one video
MAIN = {
    "msvd": "train_list.txt",
    "didemo": "train_data.json",
    "vatex": "vatex_training_v1.0.json",
    "activitynet": "train.json",
    "charades": "Charades_v1_train.csv",
}
FIRST = {
    "msvd": "-4wsuPCjDBc_5_15",
    "didemo": "1@N00_1_a",
    "vatex": "Ptf_2VRj-V0_000122_000132",
    "activitynet": "v_QOlSCBRmfWY",
    "charades": "46GP8",
}
JSONS = ["didemo", "vatex", "activitynet"]
every = pytest.mark.parametrize("dataset", READERS)


@pytest.fixture
def make(tmp_path):
    """Writes a dataset's small files and gives its reader."""

    def build(dataset, **arguments):
        WRITERS[dataset](tmp_path)
        return READERS[dataset](tmp_path, **arguments)

    return build


@every
def test_records_are_complete(make, dataset, tmp_path):
    reader = make(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = {split: reader.load(split) for split in reader.splits}
    assert {"train", "test"} <= set(splits)
    assert splits["train"][0].video_id == FIRST[dataset]
    ids = [r.video_id for records in splits.values() for r in records]
    assert len(ids) == len(set(ids)) >= 5
    for record in (r for records in splits.values() for r in records):
        assert record.captions
        assert all(c == " ".join(c.split()) != "" for c in record.captions)
        assert record.video_path.parent == tmp_path / reader.videos
        assert record.video_path.stem == record.video_id
    with pytest.raises(DataError, match="has no split 'tets': did you mean test"):
        reader.load("tets")


@every
def test_nothing_is_read_before_use_and_once(make, dataset, monkeypatch):
    read = Counter()
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.update([path.name]), original(path))[1])
    reader = make(dataset)
    assert reader.splits
    assert not read
    for split in reader.splits * 2:
        reader.load(split)
    assert MAIN[dataset] in read
    assert set(read.values()) == {1}


@every
def test_bom_is_no_part_of_the_text(make, dataset, tmp_path):
    plain = make(dataset).load("train")
    path = tmp_path / MAIN[dataset]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert READERS[dataset](tmp_path).load("train") == plain


@every
def test_crlf(make, dataset, tmp_path):
    plain = make(dataset).load("train")
    for path in [*tmp_path.glob("*.txt"), *tmp_path.glob("*.json")]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert READERS[dataset](tmp_path).load("train") == plain


@every
def test_missing_file(make, dataset, tmp_path):
    reader = make(dataset)
    (tmp_path / MAIN[dataset]).unlink()
    with pytest.raises(DataError, match=rf"no '{re.escape(MAIN[dataset])}'.* in .*found: .*see docs/datasets.md"):
        reader.load("train")


@every
def test_missing_folder(dataset):
    with pytest.raises(DataError, match="the folder does not exist"):
        READERS[dataset]("no/such/folder").load("train")


@every
def test_folder_that_may_not_be_entered(make, dataset, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    reader = make(dataset)
    for function in ("stat", "iterdir"):
        monkeypatch.setattr(Path, function, refuse)
    with pytest.raises(DataError, match="the folder cannot be read: Permission denied"):
        reader.load("train")


@every
def test_unreadable_files_and_videos(make, dataset, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    reader = make(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
            reader.load("train")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{reader.videos}: cannot be read \(Permission denied\)"):
        reader.load("train")


@every
def test_bytes_that_are_not_utf8(make, dataset, tmp_path):
    reader = make(dataset)
    path = tmp_path / MAIN[dataset]
    content = path.read_bytes()
    path.write_bytes(content + b"\n\xff")
    line = content.count(b"\n") + 2
    with pytest.raises(DataError, match=rf"not UTF-8: byte 0xff at offset {len(content) + 1} \(line {line}\)"):
        reader.load("train")


@pytest.mark.parametrize("dataset", JSONS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"a": [}', "broken JSON at line 2, column 7"),
        ("", "broken JSON at line 1, column 1"),
        ("[" * 100_000, "this JSON cannot be read"),
        ("[]", "expected .*found (an empty list|list)"),
        ("{}", "expected .*found (an empty dict|dict)"),
        ("[3]", "expected an object"),
        ('{"v": 3}', "expected .*found (dict|int 3)"),
        ('{"a": 1, "b": 2, "a": 3}', "1 keys of an object occur more than once: a"),
    ],
)
def test_broken_json(make, dataset, tmp_path, content, message):
    reader = make(dataset)
    (tmp_path / MAIN[dataset]).write_text(content)
    with pytest.raises(DataError, match=message):
        reader.load("train")


@pytest.mark.parametrize("dataset", JSONS)
@pytest.mark.parametrize("other", JSONS)
def test_json_of_another_dataset(make, dataset, other, tmp_path):
    if dataset == other:
        assert make(dataset).load("train")
        return
    make(other)
    content = (tmp_path / MAIN[other]).read_bytes()
    reader = make(dataset)
    (tmp_path / MAIN[dataset]).write_bytes(content)
    with pytest.raises(DataError, match=r"expected .*another dataset or version"):
        reader.load("train")


@every
@pytest.mark.parametrize("strange", ["../../etc/passwd", "/etc/passwd", "a/../b", "C:/x", "C:\\\\x", "..\\\\x"])
def test_ids_that_leave_the_folder(make, dataset, tmp_path, strange):
    reader = make(dataset)
    path = tmp_path / MAIN[dataset]
    name = strange + ".mp4" if dataset == "didemo" else strange
    if path.suffix != ".json":
        name = name.replace("\\\\", "\\")
    first = FIRST[dataset] + (".mov" if dataset == "didemo" else "")
    assert first in path.read_text()
    path.write_text(path.read_text().replace(first, name))
    with pytest.raises(DataError, match=f"{MAIN[dataset]}: .* is not a file name inside the dataset's folder"):
        reader.load("train")


@every
@pytest.mark.filterwarnings("ignore:.* are in no list")
def test_a_video_in_two_splits(make, dataset, tmp_path):
    reader = make(dataset)
    names = {"msvd": "test_list.txt", "didemo": "test_data.json", "activitynet": "val_1.json",
             "vatex": "test_list.txt", "charades": "Charades_v1_test.csv"}  # fmt: skip
    train = "train_list.txt" if dataset == "vatex" else MAIN[dataset]
    (tmp_path / names[dataset]).write_bytes((tmp_path / train).read_bytes())
    if dataset == "vatex":
        (tmp_path / "vatex_validation_v1.0.json").write_bytes((tmp_path / MAIN[dataset]).read_bytes())
    reader.load("train")
    with pytest.raises(DataError, match=rf"videos are in train and in test: {re.escape(FIRST[dataset])}"):
        reader.load("test")


@pytest.mark.parametrize("dataset", ["msvd", "didemo", "vatex", "activitynet"])
def test_ids_in_the_list_but_not_in_the_captions(make, dataset, tmp_path):
    reader = make(dataset)
    if dataset == "activitynet":
        (tmp_path / "train_ids.json").write_text(json.dumps([FIRST[dataset], "v_unknown0000"]))
    else:
        (tmp_path / "train_list.txt").write_text(f"{FIRST[dataset]}\nunknown\n")
    with pytest.raises(DataError, match=r"1 of 2 listed videos are not in .*: (v_)?unknown.*belong to the same"):
        reader.load("train")


@pytest.mark.parametrize(("dataset", "left"), [("msvd", 2), ("didemo", 2), ("vatex", 1), ("activitynet", 2)])
def test_ids_in_the_captions_but_not_in_the_list(make, dataset, left, tmp_path):
    reader = make(dataset)
    if dataset == "activitynet":
        (tmp_path / "train_ids.json").write_text(json.dumps([FIRST[dataset]]))
    else:
        (tmp_path / "train_list.txt").write_text(FIRST[dataset] + (".mov" if dataset == "didemo" else ""))
    with pytest.warns(UserWarning, match=rf"{left} videos of .* are in no list and are left out: "):
        assert [r.video_id for r in reader.load("train")] == [FIRST[dataset]]


@pytest.mark.parametrize("dataset", ["msvd", "vatex", "didemo"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no video is listed"),
        ("a.x\nb.x\na.x\n", "1 ids occur more than once: a"),
        ("a.x\n\0.x\n", "not a file name"),
    ],
)
def test_broken_lists(make, dataset, tmp_path, content, message):
    reader = make(dataset)
    (tmp_path / "train_list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        reader.load("train")


def test_lists_keep_strange_names(tmp_path):
    names = ["-a", "_b", "c d", "é+&=?", "last one"]
    (tmp_path / "list.txt").write_text("\r\n".join(names), encoding="utf-8")
    assert read_list(tmp_path / "list.txt") == names


class Evil:
    def __reduce__(self):
        return os.system, ("echo run",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_of_builtin_types(tmp_path, protocol):
    value = {"a": [["x", "é"], ("y", 3)], 4: {"s"}, "f": frozenset({1})}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickle(tmp_path / "x.pkl") == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [(Evil(), rf"{os.system.__module__}\.system"), (OrderedDict(a=1), "collections.OrderedDict"),
     (eval, r"(__builtin__|builtins)\.eval"), (Path("x"), r"pathlib"), ({"a": [print]}, r"\w+\.print")],
)  # fmt: skip
def test_pickle_that_asks_for_code(tmp_path, protocol, value, name, capfd):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    with pytest.raises(DataError, match=f"x.pkl: the pickle refers to {name}"):
        read_pickle(tmp_path / "x.pkl")
    assert "run" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"broken pickle: .*\(0 bytes were read\)"),
        (pickle.dumps({"a": [["b"]]})[:-4], "broken pickle"),
        (b'{"a": ["b"]}', "broken pickle"),
        (b"\x80\x03X\x02\x00\x00\x00\xff\xfe.", "not UTF-8"),
        (b"\x80\x02U\x01\xff.", "not UTF-8"),
        (pickle.dumps({"a": 1.5}), "the pickle holds float"),
        (pickle.dumps([None]), "the pickle holds NoneType"),
        (pickle.dumps({"a": b"x"}), "the pickle holds bytes"),
        (b"\x80\x02c__builtin__\nset\n.", "the pickle holds type"),
    ],
)
def test_broken_pickle(tmp_path, content, message):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pickle(tmp_path / "x.pkl")


def test_pickle_inside_itself_ends(tmp_path):
    loop = ["a"]
    loop.append(loop)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(loop))
    assert read_pickle(tmp_path / "x.pkl")[1][0] == "a"


def test_json_keys_that_occur_once_in_each_object(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": 1}, {"a": {"a": 2}}]')
    assert read_json(tmp_path / "x.json") == [{"a": 1}, {"a": {"a": 2}}]


NAMES = ["-lead.mp4", "sp ace+&=?.mp4", "é.webm", "both.avi", "both.MP4", "kept.avi.mp4", "kept.mov", "dot.", "bare",
         "v.2.mp4", "part.mp4.part", "note.txt", ".mp4", "mov.mov.mp4", "abc.mkv", "twice..mp4"]  # fmt: skip


@pytest.mark.parametrize(
    ("video", "expected", "with_bare"),
    [
        ("-lead", "-lead.mp4", None),
        ("sp ace+&=?", "sp ace+&=?.mp4", None),
        ("é", "é.webm", None),
        ("both", "both.MP4", None),
        ("kept", "kept.mov", None),  # before the one with an appended extension
        ("kept.avi", "kept.avi.mp4", None),
        ("mov", "mov.mov.mp4", None),
        ("v.2", "v.2.mp4", None),
        ("v", "v.mp4", None),
        ("part", "part.mp4", None),
        ("note", "note.mp4", None),
        ("dot", "dot.mp4", "dot."),
        ("bare", "bare.mp4", "bare"),
        ("twice", "twice.mp4", "twice..mp4"),
        ("p_abc", "abc.mkv", None),
        ("p_none", "p_none.mp4", None),
    ],
)
def test_video_files(tmp_path, video, expected, with_bare):
    for name in NAMES:
        (tmp_path / name).touch()
    (tmp_path / "dir.mp4").mkdir()
    known = ("mp4", "avi", "webm", "mkv", "mov")
    assert VideoFolder(tmp_path, known, prefix="p_").path(video) == tmp_path / expected
    assert VideoFolder(tmp_path, (*known, ""), prefix="p_").path(video) == tmp_path / (with_bare or expected)


def test_video_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "absent"):
        assert VideoFolder(folder).path("x") == folder / "x.mp4"


SETTINGS = {
    "msvd": {"num_frames": 12, "max_words": 32, "fps": 1.0, "batch_size": 128},
    "didemo": {"num_frames": 64, "max_words": 64, "fps": 1.0, "batch_size": 64},
    "vatex": {"num_frames": 12, "max_words": 32, "fps": 1.0, "batch_size": 128},
    "activitynet": {"num_frames": 64, "max_words": 64, "fps": 1.0, "batch_size": 64},
    "charades": {"num_frames": 25, "max_words": 77, "fps": None, "jitter": True, "batch_size": 128},
}


@every
def test_data_part_of_experiments(dataset, tmp_path):
    data = yaml.safe_load((EXPERIMENTS / "data" / f"{dataset}.yaml").read_text())["data"]
    assert SETTINGS[dataset].items() <= data.items()
    module, _, name = data["annotations"]["class_path"].rpartition(".")
    assert getattr(import_module(module), name) is READERS[dataset]
    path = tmp_path / "x.yaml"
    parts = f"defaults: [trainer/cpu, data/{dataset}, method/clip4clip]"
    for folder in ("trainer", "data", "method"):
        (tmp_path / folder).symlink_to(EXPERIMENTS / folder)
    path.write_text(parts)
    config, _ = read_arguments(["--config", str(path), "--data.annotations.root=elsewhere"])
    assert str(config).count("elsewhere") >= 1
    with pytest.raises(ConfigError, match=r"unknown key 'data.annotations.init_args.rooot'; did you mean root"):
        read_arguments(["--config", str(path), "--data.annotations.init_args.rooot=elsewhere"])
