"""What classes take, read from sources: those of the suite once, those of others whenever they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.config import sources
from tvr_lightning.config.options import ROOT
from tvr_lightning.config.sources import signature


def test_sources_of_the_suite_are_read_once() -> None:
    path = "tvr_lightning.methods.clip4clip.CLIP4Clip"
    assert signature(path) is signature(path)
    slot = signature(path).slots["optimizer"]
    assert slot.fields() is slot.fields()
    with pytest.raises(TypeError):
        signature(path).slots["mine"] = slot  # all callers share it
    assert ROOT.slots["data"].fields() is ROOT.slots["data"].fields()


def test_what_could_not_be_read_is_asked_again() -> None:
    answers = [None, 1, 2]
    ask = sources._kept(lambda about: answers.pop(0))
    path = "tvr_lightning.data.annotations.msvd.MSVD"
    assert [ask(path), ask(path), ask(path)] == [None, 1, 1]


def test_a_class_that_was_not_there_is_found_once_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert signature("a_module_of_mine.Mine") is None
    (tmp_path / "a_module_of_mine.py").write_text("class Mine:\n    def __init__(self, size: int = 3): ...\n")
    found = signature("a_module_of_mine.Mine")
    assert found is not None
    assert found.slots["size"].plain_type() is int
