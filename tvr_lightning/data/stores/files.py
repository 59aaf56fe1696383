"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TextIO

from tvr_lightning.errors import ConfigError, RunError, few
from tvr_lightning.visible import visible

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST = 60  # letters of a name that its temporary name repeats: a name has 255 bytes
_FORMULA = "=+-@\t\r\n＝＋－＠"  # what begins a formula in a spreadsheet; some read the wide letters too


def is_file(path: Path) -> bool:
    """Whether there is a regular file; one that the system cannot even look for is none.

    >>> is_file(Path("x" * 300)), is_file(Path(__file__))
    (False, True)
    """
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, links in a loop, a folder that may not be entered, letters of no name
        return False


def _beside(path: Path) -> Path:
    """A name that nothing has yet, hidden beside `path`."""
    return path.with_name(f".{path.name[:_LONGEST]}.{token_hex(8)}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; it replaces `path` when the block ends well, else nothing is left.

    The file has the permissions that the umask leaves to a new one, also where a library makes it anew with others.

    Raises:
        RunError: the folder cannot be written, or `path` is a folder, a device or a pipe.
    """
    temporary = _beside(path)
    try:
        _check_replaceable(path)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    """Refuses to put a file where something stands that is none: a device such as /dev/full would be gone."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EEXIST, "a folder of that name is there" if stat.S_ISDIR(mode) else "it is not a file")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, which becomes `path` when the block ends well; else nothing is left.

    A folder that is there already is replaced where it holds nothing but files of the names that the new one has.

    Raises:
        RunError: the folder cannot be written, or `path` holds something else.
    """
    try:
        temporary = _beside(path)
        temporary.mkdir()
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    try:
        yield temporary
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
        raise RunError(f"{path} exists and holds other things ({few(others) or 'a link'}): give another --out")
    old = _beside(path)
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as safetensors; two that share memory are kept twice, as the format wants it.

    Args:
        path: what `atomic_write` or `atomic_folder` gave.
        tensors: by name.
        metadata: texts for the file's head.

    Raises:
        OSError: the disk is full or broken; atomic writers make a `RunError` of it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    places = [x.untyped_storage().data_ptr() for x in tensors.values()]
    own = {
        name: x.contiguous() if places.count(place) == 1 else x.clone().contiguous()
        for (name, x), place in zip(tensors.items(), places, strict=True)
    }
    try:
        save_file(own, path, None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; a number that is not finite is refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(file: TextIO, fields: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    r"""Writes rows under a head; what a spreadsheet would compute stands as text, behind an apostrophe.

    Numbers stay numbers, also where they are texts already and negative.

    >>> import sys
    >>> write_csv(sys.stdout, ["run", "difference"], [{"run": "=1+1", "difference": -2.5}, {"difference": "-inf"}])
    run,difference
    '=1+1,-2.5
    ,-inf
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_cell, fields))
    writer.writerows([_cell(row.get(name, "")) for name in fields] for row in rows)


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(tuple(_FORMULA)) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
