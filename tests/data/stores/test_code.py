"""The name of code: what it computes, not how it is described or where its imports come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.data.stores.code import code_fingerprint
from tvr_lightning.data.stores.frames import pixel_version
from tvr_lightning.data.video import frames

SOURCE = '''"""What the module does."""

import math
from a.b import c

LIMIT = 12
"""How many."""


class Reader:
    """Reads."""

    def read(self, x: int, double: bool = False) -> int:
        """Reads x."""
        # twice
        from a import d

        return math.floor(x * 2 + LIMIT) if double else c(x, "text") + d
'''


def fingerprint(folder: Path, **sources: str) -> str:
    files = [folder / f"{name}.py" for name in sources]
    for file, source in zip(files, sources.values(), strict=True):
        file.write_text(source)
    return code_fingerprint(files)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# twice", "# x two times"),
        ("        # twice\n", ""),
        ('"""What the module does."""', '"""Something else."""'),
        ('"""How many."""', '"""The most."""'),
        ('    """Reads."""\n', ""),
        ('"""Reads x."""', '"""Returns x."""'),
        ("import math\n", "import math, os\n"),
        ("from a.b import c", "from elsewhere import c"),
        ("        from a import d", "        from z.a import d"),
        ("    def read", "\n\n    def read"),
        ("x * 2 + LIMIT", "(x * 2) + LIMIT"),
    ],
)
def test_words_and_imports_change_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert fingerprint(tmp_path, a=SOURCE.replace(old, new)) == fingerprint(tmp_path, a=SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 12", "LIMIT = 13"),
        ("LIMIT = 12", "LIMIT = 12.0"),
        ("* 2", "+ 2"),
        ("math.floor", "math.ceil"),
        ('"text"', '"texts"'),
        ("double: bool = False", "double: bool = True"),
        ("class Reader:", "@cache\nclass Reader:"),
        ("if double else", "if not double else"),
    ],
)
def test_what_is_computed_changes_it(tmp_path: Path, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert fingerprint(tmp_path, a=SOURCE.replace(old, new)) != fingerprint(tmp_path, a=SOURCE)


def test_modules_count_by_name_and_content_in_any_order(tmp_path: Path) -> None:
    both = fingerprint(tmp_path, a=SOURCE, b="X = 1")
    assert both == fingerprint(tmp_path, b="X = 1", a=SOURCE)
    others = [fingerprint(tmp_path, a=SOURCE), fingerprint(tmp_path, a=SOURCE, c="X = 1"),
              fingerprint(tmp_path, a="X = 1", b=SOURCE), fingerprint(tmp_path, a=SOURCE, b="X = 1", c="")]  # fmt: skip
    assert len({both, *others}) == 5


def test_frames_depend_on_every_module_that_reads_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Path(frames.__file__).parent
    for file in room.glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.setattr(frames, "__file__", str(tmp_path / "frames.py"))
    version = pixel_version.__wrapped__
    before = version()
    assert before == pixel_version()
    for file in sorted(tmp_path.glob("*.py")):
        source = file.read_text()
        file.write_text(f'"""Moved."""\nimport os  # said better\n{source}')
        assert version() == before, file.name
        file.write_text(f"{source}\nNEW = 1\n")
        assert version() != before, file.name
        file.write_text(source)
    (tmp_path / "new.py").write_text("")
    assert version() != before
