"""The name of code: what it computes, not how it is described or where its imports come from."""

from __future__ import annotations

from pathlib import Path

import pytest

import tvr_lightning
from tvr_lightning.data.stores.code import code_fingerprint, files_behind
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


def test_frames_depend_on_every_module_that_reads_videos_and_on_what_these_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(tvr_lightning.__file__).parent
    behind = files_behind(Path(frames.__file__).parent)
    assert {file.stem for file in behind} >= {"container", "decoding", "pixels", "examination", "key_frames", "errors"}
    for file in {*behind, package / "__init__.py", package / "data" / "__init__.py"}:
        copy = tmp_path / file.relative_to(package.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    room = tmp_path / Path(frames.__file__).relative_to(package.parent).parent
    monkeypatch.setattr(frames, "__file__", str(room / "frames.py"))
    version = pixel_version.__wrapped__
    before = version()
    assert before == pixel_version()
    sources = {(file := tmp_path / f.relative_to(package.parent)): file.read_text() for f in sorted(behind)}
    for file, source in sources.items():
        file.write_text(f'"""Moved."""\nimport os  # said better\n{source}')
    assert version() == before
    for file, source in sources.items():
        file.write_text(f"{source}\nNEW = 1\n")
        assert version() != before, file.name
        file.write_text(source)
    (room / "new.py").write_text("from tvr_lightning.data import colours\n")
    with_new = version()
    assert with_new != before
    (room.parent / "colours.py").write_text("LIMIT = 1\n")
    with_colours = version()
    assert with_colours != with_new
    (room.parent / "colours.py").write_text("LIMIT = 2\n")
    assert version() != with_colours


def test_every_form_of_import_is_followed(tmp_path: Path) -> None:
    sources = {
        "suite/__init__.py": "import suite.unrelated",
        "suite/unrelated.py": "",
        "suite/room/__init__.py": "",
        "suite/room/one.py": "import math, suite.plain\ndef f():\n    from suite import inside\n",
        "suite/room/deep/two.py": "from ...far import away\nfrom .. import one\nfrom suite.package import name",
        "suite/plain.py": "from suite.circle import X",
        "suite/circle.py": "from suite.plain import Y",
        "suite/inside.py": "",
        "suite/far/__init__.py": "",
        "suite/far/away.py": "import suitelike.other",
        "suite/package/__init__.py": "name = 1",
        "suite/package/other.py": "",
        "suitelike/other.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    behind = {str(file.relative_to(tmp_path)) for file in files_behind(tmp_path / "suite" / "room")}
    leads_to = {"suite/__init__.py", "suite/far/__init__.py"}
    others = {"suite/unrelated.py", "suite/package/other.py", "suitelike/other.py"}
    assert behind == sources.keys() - leads_to - others
