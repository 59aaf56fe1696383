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
from tvr_lightning.config.text import parse_yaml, plain
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
    text = _text(path, str(source) if is_text(source) else None)
    content = _written(text, path) if of_run or lies_in_a_run(path) else _resolved(_read(text, path), path)
    check_shape(content, str(path))
    return content


def lies_in_a_run(file: Path) -> bool:
    """Whether a file is the configuration that a run wrote."""
    beside = (METRICS, PREDICTIONS, CHECKPOINTS)
    return any(f.name == CONFIG and any(is_there(f.parent / name) for name in beside) for f in (file, _real(file)))


def _real(file: Path) -> Path:
    """What a link leads to."""
    try:
        return file.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself
        return file


def _written(text: str, path: Path) -> dict[str, Any]:
    """What a run wrote: it is whole, and may be someone else's, so nothing is looked up and nothing expanded."""
    import yaml
    from jsonargparse import get_loader

    try:
        content = plain(parse_yaml(text, get_loader("yaml")))  # other than YAML 1.1, it takes 1e-4 for a number
    except yaml.YAMLError as error:
        raise _no_yaml(path, error) from None
    if not isinstance(content, dict):
        raise _no_experiment(path)
    if "defaults" in content:
        raise ConfigError(
            f"{path} lies beside what a run leaves, and a run's configuration has no `defaults`: if it is an "
            f"experiment of yours, give it another name than {CONFIG}"
        )
    return _lay({}, content)


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


def no_text(file: Path) -> str:
    """A file's name that is not taken for YAML text where it begins with a brace.

    >>> no_text(Path("{a}/config.yaml")), no_text(Path("a/config.yaml"))
    ('./{a}/config.yaml', 'a/config.yaml')
    """
    return f"./{file}" if is_text(str(file)) else str(file)


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
    return _plain(_read(_text(file), file))


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


def _text(path: Path, given: str | None = None) -> str:
    """What a file holds, or what was given in its place."""
    if given is not None:
        return given
    if not is_file(path):
        near = {p.stem for p in path.parent.glob("[!.]*.yaml")}  # not below: that may be a whole project
        if not path.suffix or path.parts[0] == FOLDER:
            near |= known_experiments().keys()
        hint = nearest(path.stem, near) if near or path.parent.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"no experiment file {path}: {hint}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from None


def _read(text: str, path: Path) -> DictConfig:
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = parse_yaml(text, lambda text: OmegaConf.load(StringIO(text)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise _no_yaml(path, error) from None
    if not isinstance(config, DictConfig):
        raise _no_experiment(path)
    return config


def _no_yaml(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}")


def _no_experiment(path: Path) -> ConfigError:
    return ConfigError(f"{path}: an experiment is a mapping of `trainer`, `data` and `model`; this file is not")
