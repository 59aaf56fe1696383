"""Experiment files: finding them, and composing them from the shared parts that their `defaults:` name.

A file's `defaults: [trainer/x, data/y, method/z]` names its parents, relative to the `experiments` folder it lies in,
else to the suite's own. Parents are merged in order, then the file on top; `${...}` is resolved over the merged whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.apart import split_name, with_value
from tvr_lightning.config.layers import lay
from tvr_lightning.config.options import ROOT
from tvr_lightning.config.text import bounded
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.names import CHECKPOINTS, CONFIG, METRICS, PREDICTIONS

if TYPE_CHECKING:
    from omegaconf import DictConfig


FOLDER = "experiments"
PACKAGED = Path(__file__).parents[1] / FOLDER  # in a checkout a link to the folder beside the package
PARTS = ("trainer", "data", "method", "optimizer")
GRIDS = "ablations"
FIGURES = "reported"


def experiments_in(folder: Path) -> list[str]:
    """Names of the experiments in a folder, sorted; shared parts, grids and the papers' figures are left out."""
    return sorted(
        p.relative_to(folder).with_suffix("").as_posix()
        for p in folder.rglob("*.yaml")
        if p.relative_to(folder).parts[0] not in (*PARTS, GRIDS, FIGURES)
    )


def known_experiments() -> dict[str, Path]:
    """Files of all experiments that go by a name: those in `experiments` here, and the suite's own."""
    return {name: folder / f"{name}.yaml" for folder in reversed(_folders()) for name in experiments_in(folder)}


def find_file(name: str) -> Path:
    """The file that a name or path means: `x`, `experiments/x.yaml` and `x.yaml` in `experiments` here or the suite's.

    Returns:
        The path itself where there is no such file.
    """
    path = Path(name)
    if is_file(path) or path.is_absolute():
        return path
    inside = path.relative_to(FOLDER) if path.parts[:1] == (FOLDER,) else path
    if inside is path and path.suffix:
        return path  # a file that is not there, and no name
    files = (folder / inside.with_suffix(".yaml") for folder in _folders())
    return next((file for file in files if is_file(file)), path)


def _folders() -> list[Path]:
    """Where names are looked up, in this order."""
    here = Path(FOLDER)
    return [here] if here.is_dir() and here.samefile(PACKAGED) else [here, PACKAGED] if here.is_dir() else [PACKAGED]


def compose(source: str | Path, of_run: bool = False) -> dict[str, Any]:
    """Reads an experiment, merges its parents and resolves interpolation.

    A name that no file has, `sptch_msrvtt_32`, may mean another experiment with one number changed; see `config.apart`.
    The configuration that a run wrote is taken as it stands.

    Args:
        source: a file, the name of an experiment, or its YAML text in braces.
        of_run: a run wrote it, also where nothing else of the run is there.

    Returns:
        The configuration; `experiment`, its name, is the file's stem where it gives none.

    Raises:
        ConfigError: the file or a parent is missing, is not a mapping, or holds broken YAML or interpolation.
    """
    path = Path("--config") if is_text(source) else find_file(str(source))
    if not is_text(source) and not is_file(path) and (other := _of_other_value(path)) is not None:
        return other
    own = _read(path, str(source) if is_text(source) else None)
    # what a run wrote is whole, and may be someone else's: it looks up nothing
    content = _plain(own) if of_run or lies_in_a_run(path) else _resolved(own, path)
    check_shape(content, str(path))
    return content


def lies_in_a_run(file: Path) -> bool:
    """Whether a file is the configuration that a run wrote."""
    return file.name == CONFIG and any(is_there(file.parent / name) for name in (METRICS, PREDICTIONS, CHECKPOINTS))


def _resolved(own: DictConfig, path: Path) -> dict[str, Any]:
    """An experiment on top of its parents, with what its interpolation stands for."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folders = [_home(path), PACKAGED]
    merged: dict[str, Any] = {}
    try:
        parents = own.pop("defaults", None) or []
        if not isinstance(parents, str | Sequence):
            raise ConfigError(f"{path}: defaults is {parents!r:.40}; it lists shared parts: [trainer/cpu, data/shapes]")
        for name in [parents] if isinstance(parents, str) else parents:
            merged = _lay(merged, _read_parent(folders, str(name), path))
        return OmegaConf.to_container(OmegaConf.create(_lay(merged, _plain(own))), resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None


def check_shape(content: Any, source: str, where: str = "") -> None:
    """Checks that groups of settings, and the arguments of classes, are names with values.

    Args:
        content: a configuration, or a part of one.
        source: where it comes from, for messages.
        where: the part's name.

    Raises:
        ConfigError: one is something else.
    """
    if not isinstance(content, Mapping):
        return
    slots = ROOT.slots if not where else {}
    for key, value in content.items():
        place = f"{where}.{key}".lstrip(".")
        group = key in slots and (slots[key].group or key == "model")
        needed = group or (key == "init_args" and "class_path" in content)
        if group and value is None:
            raise ConfigError(f"{source}: {place} is empty; leave it out, or give it names and values")
        if needed and value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {place} is {value!r:.40}; it holds names and values")
        check_shape(value, source, place)


def _of_other_value(path: Path) -> dict[str, Any] | None:
    """What a name means that ends in a number and has no file; None where there is no such experiment."""
    found = split_name(path)
    if found is None or not is_file(find_file(str(found[0]))):
        return None
    return with_value(compose(found[0]), found[1])


def is_text(source: str | Path) -> bool:
    """Whether a source is the YAML text of an experiment itself and no file."""
    return str(source).lstrip().startswith("{")


def _home(path: Path) -> Path:
    """The folder that parents are named from: the nearest ancestor that has shared parts."""
    for folder in path.absolute().parents:
        if any((folder / part).is_dir() for part in PARTS):
            return folder
    return path.absolute().parent


def _read_parent(folders: Sequence[Path], parent: str, child: Path) -> Mapping[str, Any]:
    file = next((file for folder in folders if (file := folder / f"{parent}.yaml").is_file()), None)
    if file is None:
        known = [p.relative_to(f).with_suffix("").as_posix() for f in folders for part in PARTS
                 for p in (f / part).glob("*.yaml")]  # fmt: skip
        raise ConfigError(
            f"{child}: defaults name '{parent}', but neither {folders[0]} nor the suite has {parent}.yaml; "
            f"{nearest(parent, known)}"
        )
    state = file.stat()
    config = _read_part(file, (state.st_ino, state.st_ctime_ns, state.st_mtime_ns, state.st_size))
    if "defaults" in config:
        raise ConfigError(f"{file}: a shared part has no `defaults` of its own; name its parents in {child.name}")
    return config


@cache
def _read_part(file: Path, state: tuple[int, ...]) -> Mapping[str, Any]:
    """Many experiments share a part: it is read again when it has changed."""
    return _plain(_read(file))


def _plain(config: DictConfig) -> dict[Any, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


def _lay(under: Mapping[str, Any], over: Mapping[Any, Any]) -> dict[str, Any]:
    """Lays a file over others, interpolation unresolved; `data.batch_size: 8` at its top is `data: {batch_size: 8}`."""
    merged = dict(under)
    for key, value in over.items():
        first, *rest = str(key).split(".")
        for part in reversed(rest):
            value = {part: value}
        merged = lay(merged, {first: value}, ROOT)
    return merged


def _read(path: Path, text: str | None = None) -> DictConfig:
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if text is None and not is_file(path):
        near = {p.stem for p in path.parent.glob("[!.]*.yaml")}  # not below: that may be a whole project
        if not path.suffix or path.parts[0] == FOLDER:
            near |= known_experiments().keys()
        hint = nearest(path.stem, near) if near or path.parent.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"no experiment file {path}: {hint}")
    try:
        if text is None:
            config = OmegaConf.load(StringIO(bounded(path.read_text(encoding="utf-8"))))
        else:
            config = OmegaConf.create(bounded(text))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: an experiment is a mapping of `trainer`, `data` and `model`; this file is not")
    return config
