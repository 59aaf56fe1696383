import pytest

from tvr_lightning.data.annotations.charades import Charades
from tvr_lightning.errors import ConfigError, DataError

from ..layouts import charades, write_charades, write_lines


@pytest.fixture
def root(tmp_path):
    write_charades(tmp_path)
    return tmp_path


def test_records(root):
    records = Charades(root).load("train")
    assert [(r.video_id, r.captions, r.labels) for r in records] == [
        ("46GP8", ("A person opens a door. They leave.",), (92, 147)),
        ("N11GT", ("One. Two",), (0, 1)),  # each class once, though an action ends after the video
        ("0IH69", ("A person acts.",), ()),
    ]
    assert [r.video_path for r in records] == [root / "Charades_v1_480" / f"{r.video_id}.mp4" for r in records]
    assert {(r.start, r.end) for r in records} == {(None, None)}
    assert Charades(root).splits == ("train", "test")
    assert [r.video_id for r in Charades(root).load("test")] == ["YSKX3", "001YG"]


def test_script(root):
    captions = [r.captions for r in Charades(root, text="script").load("train")]
    assert captions == [("A man, sitting.",), ('He says "no". Then leaves.',), ("They act.",)]


def test_unknown_text(root):
    with pytest.raises(ConfigError, match="no text 'scripts': did you mean script"):
        Charades(root, text="scripts")


def test_files_are_crlf_and_plain_line_ends_do_too(root):
    path = root / "Charades_v1_train.csv"
    assert path.read_bytes().count(b"\r\n") == 5  # header, rows, one inside quotes
    plain = Charades(root).load("train")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    assert Charades(root).load("train") == plain


def test_other_video_folder(root):
    (root / "clips").mkdir()
    (root / "clips" / "46GP8.webm").touch()
    assert Charades(root, videos="clips").load("train")[0].video_path == root / "clips" / "46GP8.webm"


ROWS = [
    (charades("A0", actions="c092 11.90"), "line 2: expected actions such as .* found 'c092 11.90'"),
    (charades("A0", actions="92 1.0 2.0"), "expected actions such as"),
    (charades("A0", actions="c001 1.0 2.0;"), "found ''"),
    (
        charades("A0", actions="c157 1.0 2.0"),
        r"line 2: 'c157' is not in Charades_v1_classes.txt \(c000, c001, c092, c147",
    ),
    (charades("A0", descriptions=" ; "), r"test: 1 of 1 videos have no caption in 'descriptions' of .*: A0"),
    (charades("../A0"), "is not a file name inside"),
    (charades(""), "'' is not a file name"),
]


@pytest.mark.parametrize(("row", "message"), ROWS)
def test_broken_rows(root, row, message):
    write_charades(root, {"test": [row]})
    with pytest.raises(DataError, match=message):
        Charades(root).load("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("actions", "labels"),
            "expected the columns id, script, descriptions, actions, found",
        ),
        (lambda text: text.replace(",24.83\r\n", "\r\n", 1), "line 2 has 10 cells but the header has 11"),
        (lambda text: text + '"open', "broken CSV at line 4"),
        (lambda text: text + text.split("\r\n")[1] + "\r\n", "1 ids occur more than once: YSKX3"),
        (lambda text: text.split("\r\n")[0], "no video is listed"),
        (lambda text: "", "found no header"),
    ],
)
def test_broken_csv(root, change, message):
    path = root / "Charades_v1_test.csv"
    path.write_bytes(change(path.read_bytes().decode()).encode())
    with pytest.raises(DataError, match=message):
        Charades(root).load("test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["c000 Holding", "Holding clothes"], "line 2: expected 'c000 name of the class', found 'Holding clothes'"),
        (["", " "], "no class is listed"),
    ],
)
def test_broken_classes(root, lines, message):
    write_lines(root / "Charades_v1_classes.txt", lines)
    with pytest.raises(DataError, match=message):
        Charades(root).load("test")
    (root / "Charades_v1_classes.txt").unlink()
    with pytest.raises(DataError, match=r"no 'Charades_v1_classes.txt'"):
        Charades(root).load("test")


def test_sizes_of_the_release(tmp_path):
    """157 classes and the release's numbers of rows, written here: the licence forbids passing the real files on."""
    rows = {s: [charades(f"{s}{n}", actions=f"c{n % 157:03d} 0.00 1.00") for n in range(size)]
            for s, size in (("train", 7_985), ("test", 1_863))}  # fmt: skip
    write_charades(tmp_path, rows)
    write_lines(tmp_path / "Charades_v1_classes.txt", [f"c{n:03d} Class {n}" for n in range(157)])
    reader = Charades(tmp_path)
    records = {split: reader.load(split) for split in reader.splits}
    assert {s: len(r) for s, r in records.items()} == {"train": 7_985, "test": 1_863}
    assert {r.labels for r in records["train"]} == {(n,) for n in range(157)}
