"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvr_lightning.errors import ConfigError, RunError, few


def is_file(path: Path) -> bool:
    """Whether there is a regular file; one that the system cannot even look for is none.

    >>> is_file(Path("x" * 300)), is_file(Path(__file__))
    (False, True)
    """
    try:
        return path.is_file()
    except OSError:  # a name that is too long, links in a loop, a folder that may not be entered
        return False


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; it replaces `path` when the block ends well, else nothing is left.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, which becomes `path` when the block ends well; else nothing is left.

    A folder that is there already is replaced where it holds nothing but files of the names that the new one has.

    Raises:
        RunError: the folder cannot be written, or `path` holds something else.
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.is_symlink() or path.exists():
            _replace_folder(path, temporary)
        else:
            temporary.rename(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, new: Path) -> None:
    """Puts a folder in another's place; the old one's files are gone afterwards."""
    names = {file.name for file in new.iterdir()}
    others = [path.name] if not path.is_dir() else sorted(p.name for p in path.iterdir() if p.name not in names)
    if path.is_symlink() or others:
        raise RunError(f"{path} is there and holds other things ({few(others) or 'a link'}): give another --out")
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(old)  # onto an empty folder
    new.rename(path)
    shutil.rmtree(old)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; a number that is not finite is refused."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_folder(given: str | Path | None) -> Path:
    """The folder as given, else `tvr_lightning` in `$XDG_CACHE_HOME` or `~/.cache` (XDG base directories).

    Raises:
        ConfigError: the user has no home folder that it could lie in.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification has relative paths ignored
        base = Path("~/.cache")
    try:
        return Path(given or base / "tvr_lightning").expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"no folder for the frame cache: {error} Set --data.cache_dir to a full path.") from error
