"""The figures that papers report, as data in `experiments/reported`, and what a run of ours is compared with.

`methods.yaml` says which class a row's name means, and with which settings. Every other file is a paper's: `tables`,
and beside it what all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.compose import FIGURES, FOLDER, find_file
from tvr_lightning.config.text import parse_yaml
from tvr_lightning.errors import ConfigError, nearest

if TYPE_CHECKING:
    from tvr_lightning.run.results import Run

METHODS = "methods.yaml"
REPORTED = find_file(f"{FOLDER}/{FIGURES}/{METHODS}").parent
TABLE_KEYS = {"paper", "table", "dataset", "split", "encoder", "conditions", "columns", "rows"}
OPTIONAL_KEYS = {"caution", "ablates", "settings", "any"}
METHOD_KEYS = {"method", "settings"}
ABLATED_KEYS = {"settings", "figures"}
RETRAINED = "†"
SUMMED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Reported:
    """One row of a paper's table.

    Attributes:
        name: the row as the paper names it; of an ablation, behind the name of what it ablates.
        method: the class of this suite that it means.
        settings: what of that class's configuration must have which value.
        dataset: as results name it.
        split: None where any will do.
        encoder: None where the paper does not say.
        source: paper, and table or figure.
        conditions: how the paper got it.
        caution: why the figures are doubtful; empty where nothing is known.
        metrics: by the suite's names, in percent where ours are; RSum and SumR are computed.
        file: the name of the paper's file, `tc_mgc`.
        ablation: whether it is a row of a table that changes one method's settings.
        printed: which of `metrics` the paper itself gives.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    dataset: str
    split: str | None
    encoder: str | None
    source: str
    conditions: str
    caution: str
    metrics: Mapping[str, float]
    file: str = ""
    ablation: bool = False
    printed: tuple[str, ...] = ()

    def is_of(self, method: str, dataset: str, split: str, encoder: str) -> bool:
        """Whether it is about this method on this dataset and split with this encoder, whatever the settings."""
        return (
            plain(method) == plain(self.method)
            and dataset == self.dataset
            and self.split in (None, split)
            and self.encoder is not None
            and plain(encoder.removesuffix("-quickgelu")) == plain(self.encoder)
        )

    def matches(self, run: Run) -> bool:
        """Whether a run has the same method, settings, dataset, split and encoder, over the whole test set.

        A run that lacks `config.yaml` matches no row that asks for settings.
        """
        content = run.content
        other = ("left_out", "subset", "distractors", "relevance")
        whole = not (content["partial"] or any(content["data"].get(name) for name in other))
        init_args = run.config.get("model", {}).get("init_args", {})
        return (
            whole
            and content["v2t"] == "sets"
            and self.is_of(
                content.get("method", ""), content["dataset"], content["split"], str(content.get("encoder", ""))
            )
            and all(key in init_args and init_args[key] == value for key, value in self.settings.items())
        )


def plain(name: str) -> str:
    """A name without case and signs.

    >>> plain("TC-MGC") == plain("TCMGC")
    True
    """
    return "".join(c for c in name.lower() if c.isalnum())


def load_reported(folder: Path = REPORTED) -> list[Reported]:
    """Reads and checks the papers' figures.

    Raises:
        ConfigError: a file is missing or no YAML, or an entry has unknown or missing keys, or figures that do not fit
            its columns.
    """
    methods = _read(folder / METHODS)
    for name, method in methods.items():
        if not isinstance(method, dict) or method.keys() != METHOD_KEYS or not isinstance(method["settings"], dict):
            raise ConfigError(f"{folder / METHODS}: {name}: give `method` and `settings`, a mapping")
    entries: list[Reported] = []
    for path in sorted(folder.glob("*.yaml")):
        if path.name == METHODS:
            continue
        shared = _read(path)
        tables = shared.pop("tables", None)
        if not isinstance(tables, list):
            raise ConfigError(f"{path}: give `tables`, a list, and beside it what all tables have in common")
        for number, table in enumerate(tables, 1):
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: table {number}: a table is a mapping, found {type(table).__name__}")
            entries += _table(shared | table, methods, path.stem, f"{path}: table {number}")
    return entries


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the papers' figures are a mapping, found {type(content).__name__}")
    return content


def _table(table: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], file: str, where: str) -> list[Reported]:
    known = TABLE_KEYS | OPTIONAL_KEYS
    for key in table.keys() - known:
        raise ConfigError(f"{where}: unknown key '{key}'; {nearest(str(key), known)}")
    if missing := sorted(TABLE_KEYS - table.keys()):
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    for key in ("paper", "table", "dataset", "conditions"):
        if not isinstance(table[key], str) or not table[key]:
            raise ConfigError(f"{where}: {key} is {table[key]!r}; give text, in quotes where it is a number")
    splits = table["split"] if isinstance(table["split"], list) and table["split"] else [table["split"]]
    for key, values in (("split", splits), ("encoder", [table["encoder"]])):
        if not all(isinstance(value, str | None) for value in values):
            raise ConfigError(f"{where}: {key} is {table[key]!r}; give text or null")
    columns, rows = table["columns"], table["rows"]
    if not isinstance(columns, list) or len(set(map(str, columns))) != len(columns) or not isinstance(rows, dict):
        raise ConfigError(f"{where}: columns is a list of different metrics, rows a mapping of names to figures")
    ablated = _ablated(table, methods, where)
    place = table["table"] if table["table"].startswith("Fig.") else f"Table {table['table']}"
    entries = []
    for row, content in rows.items():
        figures, changed = content, {}
        if ablated and isinstance(content, dict) and content.keys() == ABLATED_KEYS:
            figures, changed = content["figures"], _mapping(content["settings"], f"{where}: row '{row}'")
        if not isinstance(figures, list) or len(figures) != len(columns):
            raise ConfigError(f"{where}: row '{row}' does not give one figure for each of {len(columns)} columns")
        if bad := [f for f in figures if f is not None and (isinstance(f, bool) or not isinstance(f, int | float))]:
            raise ConfigError(f"{where}: row '{row}': {bad[0]!r} is not a number; null where the paper has none")
        name = str(row).removesuffix(RETRAINED)
        conditions = table["conditions"] + ("; re-trained by this paper" if name != row else "")
        method = ablated or methods.get(name, {"method": name, "settings": {}})
        metrics = {str(c): float(f) for c, f in zip(columns, figures, strict=True) if f is not None}
        entries += [
            Reported(
                name=f"{table['ablates']}, {name}" if ablated else name,
                method=str(method["method"]),
                settings={**method["settings"], **changed},
                dataset=table["dataset"],
                split=split,
                encoder=table["encoder"],
                source=f"{table['paper']}, {place}",
                conditions=conditions,
                caution=table.get("caution", ""),
                metrics=metrics | _sums(metrics),
                file=file,
                ablation=ablated is not None,
                printed=tuple(metrics),
            )
            for split in splits
        ]
    return entries


def _ablated(
    table: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], where: str
) -> Mapping[str, Any] | None:
    """What all rows of an ablation are: the method that it ablates, with the table's settings laid over its own.

    Settings named in `any` may have any value: they are without effect in this table. None where it is not an ablation.
    """
    if "ablates" not in table:
        if stray := sorted(table.keys() & {"settings", "any"}):
            raise ConfigError(f"{where}: {stray[0]} without `ablates`, the name in `methods` that the rows change")
        return None
    if table["ablates"] not in methods:
        raise ConfigError(f"{where}: ablates '{table['ablates']}'; {nearest(str(table['ablates']), methods)}")
    method = methods[table["ablates"]]
    free = table.get("any", [])
    if not isinstance(free, list) or not set(map(str, free)) <= method["settings"].keys():
        raise ConfigError(f"{where}: any is {free!r}; give a list of settings of '{table['ablates']}' in `methods`")
    kept = {key: value for key, value in method["settings"].items() if key not in free}
    return {"method": method["method"], "settings": kept | _mapping(table.get("settings", {}), where)}


def _mapping(settings: Any, where: str) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: settings is {settings!r}; give a mapping of the method's settings")
    return settings


def _sums(metrics: Mapping[str, float]) -> dict[str, float]:
    """RSum of each direction that has its terms, SumR where both have; rounded, to equal printed ones."""
    sums = {
        f"{direction}/RSum": round(sum(metrics[f"{direction}/{name}"] for name in SUMMED), 2)
        for direction in ("t2v", "v2t")
        if all(f"{direction}/{name}" in metrics for name in SUMMED)
    }
    return sums | ({"SumR": round(sum(sums.values()), 2)} if len(sums) == 2 else {})


def reported_for(runs: Sequence[Run], entries: Sequence[Reported]) -> list[Reported]:
    """The rows that every one of some runs matches; one that repeats the figures of another is left out.

    Papers print their full model once more in every ablation, and others' figures as those papers gave them. Of rows
    that say the same, one without a caution stands, else the first.
    """
    found: list[Reported] = []
    for entry in sorted(entries, key=lambda entry: bool(entry.caution)):
        repeated = any(entry.metrics.items() <= earlier.metrics.items() for earlier in found)
        if not repeated and all(entry.matches(run) for run in runs):
            found.append(entry)
    return found
