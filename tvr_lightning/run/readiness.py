"""Whether runs can begin: their data, weights, disk and devices, all looked at before anything is said to be missing.

What training would refuse is missing; what it would only mention is a note. Nothing is written but weights that a hub
gave: what is fetched once needs no network when the runs begin.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import build_reader, without_weights
from tvr_lightning.data.annotations.base import TRAIN, Annotations
from tvr_lightning.data.augment_text import lacks_synonyms
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.tools.check import DISTRACTORS, Check, SplitCheck, check_dataset
from tvr_lightning.errors import TVRError, few
from tvr_lightning.run.ablation import Point
from tvr_lightning.run.accelerators import cuda_devices, device_advice, no_cuda_advice
from tvr_lightning.run.build import build_cli

BYTES = 4  # of a parameter
MOMENTS = 2  # that an optimiser keeps of each that it trains
KEPT = 3  # checkpoints of a run at a time: best, last, and the one that is being written
SHOWN = 3


@dataclass
class Readiness:
    """What was found.

    Attributes:
        missing: a sentence for each thing without which training would end.
        notes: what is worth knowing before it begins.
    """

    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


@dataclass(frozen=True)
class _Wanted:
    """A point that has no result yet, and its configuration."""

    point: Point
    config: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        return self.config.get("data") or {}

    @property
    def trainer(self) -> Mapping[str, Any]:
        return self.config.get("trainer") or {}


def check_ready(points: Sequence[Point], workers: int | None = None) -> Readiness:
    """Looks at all that runs need which have no result yet; nothing is trained.

    Args:
        points: the runs.
        workers: processes that decode videos; None for one per core.
    """
    found = Readiness()
    wanted = [_Wanted(p, read_arguments(p.words)[0]) for p in points if p.finished() is None]
    _check_data(wanted, workers, found)
    sizes = _check_weights(wanted, found)
    _check_disk(wanted, sizes, found)
    _check_devices(wanted, found)
    found.missing = list(dict.fromkeys(found.missing))  # a file that two splits lack is said once
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=str)


def _named(names: Sequence[str]) -> str:
    return few(dict.fromkeys(names))


def _check_data(wanted: Sequence[_Wanted], workers: int | None, found: Readiness) -> None:
    """What `tvr data check` says of each dataset, by the rules under which training goes on."""
    seen: set[str] = set()
    for one in wanted:
        data = one.data
        given = [name for name in ("frame_folders", "frame_features") if data.get(name) is not None]
        rules = [data.get(name) for name in ("allow_missing", "allow_duplicates", "on_decode_error", "distractors")]
        key = _key(data.get("annotations"), rules, given)
        if key in seen:
            continue
        seen.add(key)
        try:
            reader = build_reader(data.get("annotations"))
            reader.prepare()
            if given:
                for name in reader.splits:
                    reader.load(name)
                found.notes.append(f"data: {reader.name}: {given[0]} is read instead of videos, which were not checked")
                continue
            further = [None if data.get(name) is None else Path(data[name]) for name in ("distractors", "relevance")]
            check = check_dataset(reader, (), False, workers, *further)
        except TVRError as error:
            found.missing.append(f"data: {error}")
            continue
        for split in check.splits:
            _judge(split, check, reader, data, found)


def _judge(split: SplitCheck, check: Check, reader: Annotations, data: Mapping[str, Any], found: Readiness) -> None:
    where = f"data: {check.dataset} in {reader.root}, {split.name}:"
    if split.error is not None:
        found.missing.append(f"data: {split.error}")
        return
    gallery = split.name != TRAIN
    skip, allowed = data.get("on_decode_error") == "skip", bool(data.get("allow_missing"))
    twins = not data.get("allow_duplicates")
    faults = {  # how many, in words, and whether training refuses them
        "missing": ("have no file", split.missing == split.listed or (gallery and not allowed)),
        "undecodable": ("cannot be decoded", not skip or (gallery and not allowed)),
        "in_training": ("are training videos too", twins),
        "repeats": ("repeat another one of the split", twins),
        "damaged": ("are damaged: parts of them decode", False),
        "without_captions": ("have no caption", split.name == DISTRACTORS),
    }
    for kind, (said, refused) in faults.items():
        if count := getattr(split, kind):
            ids = [str(entry["id"]) for entry in check.lists[kind] if entry["split"] == split.name]
            text = f"{where} {count:,} of {split.listed:,} videos {said} ({few(ids, SHOWN)})"
            (found.missing if refused else found.notes).append(f"{text}; `tvr data check` lists them all")


def _check_weights(wanted: Sequence[_Wanted], found: Readiness) -> dict[str, int]:
    """Builds each kind of encoder and tokeniser with its own weights, which fetches them where they are not here.

    Returns:
        The bytes of a checkpoint, by what the model is made of.
    """
    seen: set[str] = set()
    sizes: dict[str, int] = {}
    for one in wanted:
        model = _key(one.config.get("model"))
        groups = _weights_of(one.config)
        every = [word for words in groups.values() for word in words]
        new = {_key(_at(one.config, name)): words for name, words in groups.items()}
        for words in [words for key, words in new.items() if key not in seen]:
            _build(one, [w for w in every if w not in words], sizes, found)
        seen |= new.keys()
        if model not in sizes:  # no weights are its own, or none could be had
            _build(one, every, sizes, found)
    return sizes


def _build(one: _Wanted, words: Sequence[str], sizes: dict[str, int], found: Readiness) -> None:
    try:
        cli = build_cli(read_arguments([*one.point.words, *words])[0])
    except TVRError as error:
        found.missing.append(f"weights: {error}")
        return
    augment = cli.datamodule.augment
    if augment is not None and lacks_synonyms(augment.text):
        found.notes.append("weights: no WordNet, so captions are augmented without synonyms: `make wordnet` fetches it")
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in cli.model.parameters())
    sizes[_key(one.config.get("model"))] = BYTES * (whole + MOMENTS * trained)


def _weights_of(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Settings that leave weights out, by the part of the configuration that has them."""
    groups: dict[str, list[str]] = {}
    for word in without_weights(config):
        name = word.removeprefix("--").partition("=")[0]
        groups.setdefault(name.partition(".init_args.")[0] if name.startswith("data.") else name, []).append(word)
    return groups


def _at(config: Mapping[str, Any], name: str) -> Any:
    """The part that a group of `_weights_of` is about."""
    found: Any = config
    for key in name.removesuffix(".init_args.from_pretrained").split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _check_disk(wanted: Sequence[_Wanted], sizes: Mapping[str, int], found: Readiness) -> None:
    """Whether checkpoints have room; caches need none: a store that is full stops growing, and training goes on."""
    needed: dict[Path, list[int]] = {}
    for one in wanted:
        runs_dir = Path(str(one.config.get("runs_dir", "runs")))
        needed.setdefault(runs_dir, []).append(sizes.get(_key(one.config.get("model")), 0))
    for folder, each in needed.items():
        there = _existing(folder)
        if not there.is_dir() or not os.access(there, os.W_OK):
            found.missing.append(f"disk: runs cannot be kept in {folder}: {there} is not writable; set --runs_dir")
            continue
        need, free = sum(each) * (KEPT - 1) + max(each), shutil.disk_usage(there).free
        room = f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        said = f"disk: weights of {len(each)} runs in {folder} take about {room}"
        if need > free:
            found.missing.append(f"{said}; make room, or set --runs_dir to another disk")
        else:
            found.notes.append(said)
    caches = {
        data.get("cache_dir"): float(data.get("cache_gib", 20)) * 2**30
        for data in (one.data for one in wanted)
        if data.get("cache_frames") or data.get("cache_features", True)
    }
    for given, most in caches.items():
        try:
            folder = cache_folder(given)
        except TVRError as error:
            found.missing.append(f"disk: {error}")
            continue
        if (free := shutil.disk_usage(_existing(folder)).free) < most:
            found.notes.append(
                f"disk: caches in {folder} may grow to {most / 1e9:.0f} GB (data.cache_gib), {free / 1e9:.1f} GB are "
                "free; a full disk stops them, not the training"
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _check_devices(wanted: Sequence[_Wanted], found: Readiness) -> None:
    on_cpu: list[str] = []
    for one in wanted:
        accelerator, devices = one.trainer.get("accelerator", "auto"), one.trainer.get("devices", "auto")
        name = str(one.config.get("experiment"))
        try:
            cards = cuda_devices(accelerator, devices)
            advice = device_advice(one.trainer.get("precision"), accelerator, devices) if cards else None
        except TVRError as error:
            found.missing.append(f"devices: {error}")
            continue
        if advice:
            found.notes.append(f"devices: {advice}")
        if not cards and accelerator == "auto" and not _other_accelerator():
            on_cpu.append(name)
        found.notes += [f"devices: {line}" for line in _described(cards)]
    if on_cpu:
        found.missing.append(
            f"devices: torch can use no GPU here{_because()}, and {len(on_cpu)} runs of {_named(on_cpu)} would train "
            f"on the CPU; `tvr rehearse --config experiments/{on_cpu[0]}.yaml` says how long that takes, "
            "--trainer.accelerator=cpu does it nevertheless"
        )


def _other_accelerator() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _because() -> str:
    advice = no_cuda_advice()
    return f" ({advice})" if advice else ""


def _described(cards: Sequence[int]) -> Iterator[str]:
    import torch

    for card in cards:
        kind = torch.cuda.get_device_properties(card)
        yield f"card {card}: {kind.name}, {kind.total_memory / 2**30:.0f} GiB"
