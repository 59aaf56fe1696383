"""Text as a person may see it: characters that steer a terminal, or turn a line around, are shown escaped.

Captions, ids, paths and names come from files of others. Whatever prints them prints through `say`, `console` or the
page's template, and none of these lets through what is not a letter.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

# control characters but line ends and tabs, line separators of Unicode, overrides of the direction, lone surrogates
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Escapes control characters, overrides of the writing direction and lone surrogates; line ends and tabs stay.

    Letters of all scripts stay, and what joins them. What comes out can be encoded as UTF-8, and is its own result.

    >>> visible("a\x1b[2Jb \u202egpj.exe \udce9")
    'a\\x1b[2Jb \\u202egpj.exe \\udce9'
    """
    return _UNSEEN.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def bytes_in_words(size: int) -> str:
    """A number of bytes, of memory or on a disk.

    >>> bytes_in_words(0), bytes_in_words(5000), bytes_in_words(5 << 20), bytes_in_words(3 << 29)
    ('0.0 MiB', '5 KiB', '5.0 MiB', '1.5 GiB')
    """
    if 0 < size < 1 << 17:  # would round to nothing
        return f"{-(-size >> 10)} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.1f} MiB"


def encodable(text: str) -> str:
    r"""Escapes lone surrogates, and nothing else: files of UTF-8 hold no others of what Python takes for text.

    >>> encodable("\x1b \udce9")
    '\x1b \\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(content: object, indent: int | None = None) -> str:
    r"""JSON in letters of all scripts that `visible` leaves as it is: escaped by JSON's rules, it can be read back.

    >>> print(json_text(["\x9b\u202e"]))
    ["\u009b\u202e"]
    """
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def whole(text: str) -> str:
    r"""Puts the mark of a lost letter for each lone surrogate: every letter keeps its place.

    >>> ascii(whole("a \udce9 b"))
    "'a \\ufffd b'"
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def from_home(text: str) -> str:
    """A text with `~` in the place of the user's home folder, for what is passed on to others.

    >>> from_home(f"{Path.home()}/runs, {Path.home()}2"), from_home("/data")
    ('~/runs, ...2', '/data')
    """
    try:
        homes = {str(Path.home()), str(Path.home().resolve())} - {"/"}
    except (RuntimeError, OSError):  # no home folder
        return text
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    return text


def say(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Prints values as `print` does, made visible; letters that the output cannot take are escaped too."""
    out = sys.stdout if file is None else file
    text = visible(" ".join(map(str, values)))
    encoding = getattr(out, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=out, flush=flush)


@cache
def say_once(text: str) -> None:
    """Prints a line on standard error, the first time that it is asked to: what was done in a user's name."""
    say(f"tvr: {text}", file=sys.stderr)


def console(width: int | None = None, stderr: bool = False) -> Console:
    """Rich's console on which all text is visible, and text alone: brackets and colons in names are no markup.

    Args:
        width: columns; those of the terminal where it has more, and where none are given.
        stderr: prints to standard error.
    """
    from rich.console import Console
    from rich.text import Text

    class Visible(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            return super().render(_visible_text(renderable) if isinstance(renderable, Text) else renderable, options)

        def render_str(self, *arguments: Any, **settings: Any) -> Text:
            return _visible_text(super().render_str(*arguments, **settings))

    made = Visible(stderr=stderr, markup=False, emoji=False)
    if width is not None:
        made.width = max(made.width, width)
    return made


def _visible_text(text: Text) -> Text:
    """The same with its styles; each escaped character keeps the style that it had."""
    from rich.text import Span, Text

    places = [found.start() for found in _UNSEEN.finditer(text.plain)]
    for place in reversed(places):
        shown = _escaped(text.plain[place])
        styles = [Span(0, len(shown), span.style) for span in text.spans if span.start <= place < span.end]
        text = Text.assemble(text[:place], Text(shown, spans=styles), text[place + 1 :])
    return text


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def make_messages_visible() -> None:
    """Makes warnings, what loggers without a handler say, and tracebacks visible: for the command line's process."""
    if logging.lastResort:
        logging.lastResort.setFormatter(_VisibleFormatter())
    if warnings.formatwarning is not _visible_warning:
        _plain_warnings.append(warnings.formatwarning)
        warnings.formatwarning = _visible_warning
    sys.excepthook = _visible_traceback


_plain_warnings: list[Any] = []  # what formatted warnings before


def _visible_warning(*arguments: Any, **settings: Any) -> str:
    return visible(_plain_warnings[-1](*arguments, **settings))


def _visible_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)
