"""Which column of a table is what: by the names that people use, or as the settings say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tvr_lightning.data.annotations.rows import TableRows
from tvr_lightning.errors import DataError, few, nearest

Role = Literal["video", "caption", "split", "start", "end", "labels"]

USUAL: Mapping[Role, tuple[str, ...]] = {
    "video": (
        "video", "video_path", "path", "video_file", "file", "filepath", "file_path", "filename", "file_name",
        "clip_path", "clip", "video_name", "video_id", "videoid", "clip_id", "clip_name", "vid",
        "youtube_id", "id", "name",
    ),
    "caption": (
        "caption", "captions", "text", "texts", "sentence", "sentences", "description", "descriptions", "query",
        "title", "prompt",
    ),
    "split": ("split", "subset", "partition", "set"),
    "start": ("start", "start_time", "start_s", "start_sec", "start_seconds", "begin", "t_start", "from"),
    "end": ("end", "end_time", "end_s", "end_sec", "end_seconds", "stop", "t_end", "to"),
    "labels": ("labels", "label", "classes", "class", "class_name", "categories", "category", "tags", "tag"),
}  # fmt: skip
_NEEDED: tuple[Role, ...] = ("video", "caption")


def find_columns(table: TableRows, wanted: Mapping[Role, str | None], split: bool = True) -> dict[Role, int]:
    """Finds the column of every role that the table has one for.

    Names count in any capitals, with spaces or dashes for underscores; of several usual ones the first of `USUAL`.

    Args:
        table: the rows.
        wanted: for each role the name that the settings give; None to look for a usual one.
        split: whether a column of splits is looked for where none is named.

    Raises:
        DataError: no column for videos or captions, one that the settings name is not there, a name that is needed
            occurs twice, or one column has two roles.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(table.columns):
        places.setdefault(plain_name(name), []).append(place)
    found: dict[Role, int] = {}
    for role, usual in USUAL.items():
        named = wanted.get(role)
        if named is None and role == "split" and not split:
            continue
        names = usual if named is None else (named,)
        name = next((n for n in names if plain_name(n) in places), "")
        if not name:
            if named is not None:
                raise DataError(
                    f"{table.path} has no column '{named}' for the {role}: {nearest(named, table.columns)} "
                    f"(columns: {few(table.columns, 12)})"
                )
            if role in _NEEDED:
                raise DataError(_not_found(table, role, list(found.values())))
            continue
        exact = [p for p in places[plain_name(name)] if table.columns[p] == named]
        chosen = exact or places[plain_name(name)]
        if len(chosen) > 1:
            raise DataError(
                f"{table.path}: {len(chosen)} columns are called '{name}' (the {few([_ordinal(p) for p in chosen])}). "
                f"Rename or remove all but the one for the {role}."
            )
        found[role] = chosen[0]
    for role, place in found.items():
        if other := next((r for r in found if r != role and found[r] == place), None):
            raise DataError(
                f"{table.path}: the column '{table.columns[place]}' is taken for the {role} and for the {other}. Name "
                f"another for one of them: --data.annotations.{role}_column or --data.annotations.{other}_column "
                f"(columns: {few(table.columns, 12)})"
            )
    return found


def likely(table: TableRows, role: Role, taken: Sequence[int] = ()) -> str | None:
    """The column that looks most like the role: the longest texts for captions, single words for videos."""
    sample = table.rows[:200]
    scores: dict[str, float] = {}
    for place, name in enumerate(table.columns):
        texts = [row[place] for row in sample if isinstance(row[place], str) and row[place]]
        if place not in taken and texts:
            words = sum(len(text.split()) for text in texts) / len(texts)
            different = len(set(texts)) / len(texts)
            scores[name] = words * different if role == "caption" else different / words + 2 * _looks_like_files(texts)
    return max(scores, key=scores.__getitem__) if scores else None


def _not_found(table: TableRows, role: Role, taken: Sequence[int]) -> str:
    what = {"video": "videos (paths or ids)", "caption": "captions"}[role]
    guess = likely(table, role, taken)
    hint = "" if guess is None else f" '{guess}' looks like it: --data.annotations.{role}_column='{guess}'."
    return (
        f"{table.path}: no column for {what}. Found ({table.form}): {few(table.columns, 12)}.{hint} Usual names: "
        f"{few(USUAL[role], 6)}. Is the first line the header, and the separator right (--data.annotations.separator)?"
    )


def _looks_like_files(texts: Sequence[Any]) -> float:
    return sum(bool(re.search(r"\.\w{2,4}$", text)) for text in texts) / len(texts)


def plain_name(name: str) -> str:
    """A column's name in small letters, with underscores for spaces, dashes and dots."""
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _ordinal(place: int) -> str:
    return {0: "1st", 1: "2nd", 2: "3rd"}.get(place, f"{place + 1}th")
