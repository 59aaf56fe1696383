from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.annotations.msrvtt import MSRVTT

CAPTION = "a man in a red shirt is playing a guitar"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_prints_triples_and_nodes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["triples", CAPTION, "a dog barks", "!!!"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        CAPTION,
        "  man | in | red shirt",
        "  man | is playing | guitar",
        "  nodes: man in red shirt is playing guitar",
        "a dog barks",
        "  dog | barks | -",
        "  nodes: dog barks",
        "!!!",
        "  no triple",
        "  nodes: !!!",
    ]
    assert len(list((tmp_path / "cache" / "tvr_lightning" / "triples").glob("*.sqlite"))) == 1


@pytest.mark.parametrize(("nodes", "words"), [("entities", "man red shirt guitar"), ("all", CAPTION)])
def test_nodes(nodes: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["triples", CAPTION, "--nodes", nodes, "--cache_dir", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  nodes: {words}"
    assert (tmp_path / "here" / "triples").is_dir()


def test_file_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a naïve dog barks\n\na cat eats fish\n", encoding="utf-8")
    assert main(["triples", CAPTION, "--file", str(file), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["caption"] for row in rows] == [CAPTION, "a naïve dog barks", "a cat eats fish"]
    assert rows[2]["triples"] == [
        {
            "subject": {"text": "cat", "spans": [[2, 5]]},
            "relation": {"text": "eats", "spans": [[6, 10]]},
            "object": {"text": "fish", "spans": [[11, 15]]},
        }
    ]
    assert rows[2]["nodes"] == [[2, 5], [6, 10], [11, 15]]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "no captions"),
        (["a man", "--backend", "corenlp_json"], 2, "give the folder with --path"),
        (["a man", "--backend", "corenlp_json", "--path", "/no/such/folder"], 1, "neither a folder nor a file"),
        (["--write", "/no/such/folder"], 2, "no captions"),
        (["--config", "/no/such/experiment.yaml"], 2, "/no/such/experiment.yaml"),
        (["--file", "/no/such/file"], 1, "cannot read /no/such/file"),
        (["\udcff"], 2, "is not UTF-8"),
    ],
)
def test_errors(words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triples", *words]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_captions_for_corenlp_and_its_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "for corenlp"
    assert main(["triples", "a dog barks", "--write", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"files of captions in {folder}: 1." in said
    assert f"-filelist '{folder}/files.list' -outputDirectory '{folder}'" in said
    tokens = [
        {"word": word, "originalText": word, "characterOffsetBegin": start, "characterOffsetEnd": end}
        for word, start, end in (("a", 0, 1), ("dog", 2, 5), ("barks", 6, 11))
    ]
    found = {"subject": "dog", "relation": "is", "object": "barks"}
    spans = {"subjectSpan": [1, 2], "relationSpan": [1, 2], "objectSpan": [2, 3]}
    output = {"sentences": [{"tokens": tokens, "openie": [found | spans]}]}
    (folder / "captions-00000.txt.json").write_text(json.dumps(output))
    assert main(["triples", "a dog barks", "--backend", "corenlp_json", "--path", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == ["a dog barks", "  dog | is | barks", "  nodes: dog barks"]
    assert main(["triples", "a cat sleeps", "--backend", "corenlp_json", "--path", str(folder)]) == 1
    assert "no CoreNLP output" in capsys.readouterr().err
    assert main(["triples", "a dog barks", "--write", str(folder)]) == 2


def test_captions_of_a_dataset(tmp_path: Path, shapes_root: Path) -> None:
    config = tmp_path / "mine.yaml"
    reader = "{class_path: tvr_lightning.data.annotations.msrvtt.MSRVTT, init_args: {root: nowhere}}"
    config.write_text(f"data: {{annotations: {reader}}}\n")
    folder = tmp_path / "captions"
    words = ["triples", "--config", str(config), "--write", str(folder)]
    assert main([*words, f"--data.annotations.init_args.root={shapes_root}"]) == 0
    files = (folder / "files.list").read_text().splitlines()
    written = [line for name in files for line in Path(name).read_text().splitlines()]
    dataset = MSRVTT(shapes_root)
    captions = {caption for split in dataset.splits for record in dataset.load(split) for caption in record.captions}
    assert sorted(written) == sorted(captions)
    with pytest.raises(SystemExit, match="2"):
        main(["triples", "a man", "--data.annotations.init_args.root=x"])


def test_spacy_that_is_missing_is_no_other_backend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvr_lightning.data.triples.spacy import _pipeline

    monkeypatch.setitem(sys.modules, "spacy", None)
    _pipeline.cache_clear()
    assert main(["triples", CAPTION, "--backend", "spacy"]) == 2
    captured = capsys.readouterr()
    assert "pip install spacy" in captured.err
    assert captured.out == ""


def test_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes(b"a man\xff sings")
    assert main(["triples", "--file", str(file)]) == 1
    assert "is not UTF-8" in capsys.readouterr().err
    file.write_text("\n")
    assert main(["triples", "--file", str(file)]) == 2


@pytest.mark.parametrize("words", [["--path", "x"], ["--model", "en_core_web_lg"]], ids=lambda words: words[0])
def test_an_option_of_another_backend_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triples", CAPTION, *words]) == 2
    assert "the backend here is offline" in capsys.readouterr().err


def test_unknown_choice() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["triples", CAPTION, "--backend", "stanza"])


def test_help_of_tvr_names_the_command_and_loads_no_parser() -> None:
    code = "import sys; from tvr_lightning.commands.main import main; main(['--help']); print([m for m in ('nltk', 'HanTa', 'torch') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tvr triples" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
