"""Files that are written whole or not at all: what must not be replaced, and disks that are full."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tvr_lightning.data.stores.files import atomic_folder, atomic_write, save_tensors, write_json
from tvr_lightning.errors import RunError


def test_a_pipe_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in (("pipe", "it is not a file"), ("folder", "a folder of that name is there")):
        with pytest.raises(RunError, match=why):
            write_json(tmp_path / name, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    write_json(tmp_path / "link", {})
    assert (tmp_path / "other").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


def test_fields_that_are_one_tensor_are_kept_twice(tmp_path: Path) -> None:
    mask = torch.arange(6.0).reshape(2, 3)
    save_tensors(tmp_path / "x", {"mask": mask, "same": mask, "turned": mask.T}, {"about": "it"})
    kept = load_file(tmp_path / "x")
    assert all(torch.equal(kept[name], x) for name, x in {"mask": mask, "same": mask, "turned": mask.T}.items())


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_a_disk_that_fills_while_tensors_are_written_is_a_sentence(
    writer: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunError, match=r"cannot write .*No space left on device"), writer(tmp_path / "x") as place:
        save_tensors(place / "t" if place.is_dir() else place, {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []
