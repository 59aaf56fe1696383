"""Classes that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.config.objects import class_of, smallest_parts
from tvr_lightning.encoders import BERTEncoder, CLIPEncoder


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "seqTransf", "data/x.Y", "a.b", {"root": "x"}, {"class_path": 3}, "no.such.Module",
        "tvr_lightning.encoders.NoSuch", "os.path.join", {"class_path": "broken_module.Class"},
    ],
)  # fmt: skip
def test_what_names_no_class(value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    assert class_of(value) is None


def test_classes_are_found() -> None:
    assert class_of("tvr_lightning.encoders.CLIPEncoder") is CLIPEncoder
    assert class_of({"class_path": "tvr_lightning.encoders.bert.BERTEncoder", "init_args": {}}) is BERTEncoder


def test_the_smallest_parts_wherever_they_are() -> None:
    clip = {"class_path": "tvr_lightning.encoders.CLIPEncoder"}
    inner = {"class_path": "a.C", "init_args": {"more": clip}}
    config = {
        "model": {"class_path": "a.B", "init_args": {"eyes": clip, "inner": inner}},
        "data": {"tokenizer": {"class_path": "tvr_lightning.data.word_pieces.WordPieces"}, "batch_size": 3},
    }
    settings = [f"{name}={'null' if value is None else value}" for name, value in CLIPEncoder.smallest.items()]
    assert {"model=tiny", "size=null", "from_pretrained=null"} <= set(settings)
    assert list(smallest_parts(config)) == [
        *(f"--model.init_args.eyes.init_args.{s}" for s in settings),
        *(f"--model.init_args.inner.init_args.more.init_args.{s}" for s in settings),
        "--data.tokenizer.init_args.vocabulary=null",
    ]
