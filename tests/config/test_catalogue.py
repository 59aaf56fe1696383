from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.catalogue import list_experiments
from tvr_lightning.config.compose import experiments_in, known_experiments
from tvr_lightning.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_experiment_says_what_it_is() -> None:
    entries = list_experiments(known_experiments())
    assert [entry.name for entry in entries] == experiments_in(ROOT / "experiments")
    assert all(entry.method and entry.dataset and entry.reproduces for entry in entries)
    found = {entry.name: (entry.method, entry.dataset) for entry in entries}
    assert found["clip4clip_msrvtt_7k"] == ("CLIP4Clip", "MSRVTT 7k")
    assert found["tc_mgc_shapes"] == ("TCMGC", "Shapes")


def test_files_without_a_comment_or_with_faults(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("model: {class_path: a.b.Method}\n# later\n")
    entry = list_experiments({"plain": tmp_path / "plain.yaml"})[0]
    assert (entry.name, entry.method, entry.dataset, entry.reproduces) == ("plain", "Method", "", "")
    (tmp_path / "broken.yaml").write_text("defaults: [method/none]\n")
    with pytest.raises(ConfigError, match="defaults name 'method/none'"):
        list_experiments({"broken": tmp_path / "broken.yaml"})


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["experiments"]) == 0
    printed = capsys.readouterr().out
    assert "clip4clip_msrvtt_7k" in printed
    assert "Luo et al. 2022" in printed


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from tvr_lightning.commands.main import main; main(['experiments']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
