"""What a bug report should say of a machine: versions, devices, room, caches, accounts. It changes nothing.

Paths below the home folder begin with `~`, and keys are there or not, never shown. A part that cannot be found out says
why: a report is needed most where something is broken.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from tvr_lightning import __version__
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.tools.bounds import core_quota, memory_limit, visible_cores
from tvr_lightning.errors import one_line
from tvr_lightning.visible import bytes_in_words, from_home

PACKAGE = "tvr-lightning"
SHOWN = ("torch", "torchvision", "pytorch-lightning", "torch-geometric", "transformers", "open_clip_torch", "av",
         "jsonargparse", "wandb", "numpy")  # fmt: skip
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME",
             "WANDB_MODE", "WANDB_PROJECT", "WANDB_BASE_URL", "WNSEARCHDIR", "SLURM_JOB_ID", "LOCAL_RANK")  # fmt: skip
LOW_DISK, LOW_MEMORY = 5 << 30, 4 << 30
SECRET_NAMES = re.compile("(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
SECRET_LETTERS = 8  # a shorter value may be a word of the report

Lines = Iterator[tuple[str, str] | tuple[str, str, str | None]]  # name, value and what may be wrong


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        part: what it belongs to.
        name: of it.
        value: what was found.
        warning: what may be wrong, and what to do; None where nothing is.
    """

    part: str
    name: str
    value: str
    warning: str | None = None


def examine(runs_dir: Path) -> list[Finding]:
    """Looks at everything.

    Args:
        runs_dir: where runs lie, for the room on its disk.
    """
    parts: dict[str, Callable[[], Lines]] = {
        "versions": _versions,
        "extras": _extras,
        "devices": _devices,
        "processor": _processor,
        "shared memory": _shared_memory,
        "disk": lambda: _disk(runs_dir),
        "cache": _cache,
        "W&B": _wandb,
        "WordNet": _wordnet,
        "experiments": _experiments,
        "variables": _variables,
    }
    found = []
    for part, look in parts.items():
        try:
            for name, value, *warning in look():
                why = warning[0] if warning and warning[0] else None
                found.append(Finding(part, name, _shown(value), why and _shown(why)))
        except Exception as error:  # whatever it is belongs into the report, and the other parts too
            why = _shown(f"{type(error).__name__}: {one_line(error)}")
            found.append(Finding(part, "cannot be found out", why, f"{part}: {why}"))
    return found


def without_secrets(text: str) -> str:
    """A text without what addresses hold besides a host and a path, and without the values of variables of keys.

    >>> without_secrets("https://me:pass@word/1@lab.org:8080/x?api_key=1, /runs")
    'https://lab.org:8080/x?..., /runs'
    """
    for name, value in os.environ.items():
        if len(value) >= SECRET_LETTERS and SECRET_NAMES.search(name):
            text = text.replace(value, "...")
    text = re.sub(r"(?<=:/)(/?)[^\s?]*@", r"\1", text)  # a path has one of an address's two slashes left
    return re.sub(r"\?[^\s,]+", "?...", text)


def _shown(text: str) -> str:
    return from_home(without_secrets(text))


def _versions() -> Lines:
    from tvr_lightning.run.git import git_commit

    commit = git_commit()
    yield "tvr_lightning", __version__ + (f", commit {commit[:12]}{'+' * commit.endswith('+')}" if commit else "")
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    wrong = dict(_unmet(""))
    for name in SHOWN:
        installed = _installed(name)
        yield name, installed or "not installed", wrong.pop(name, None)
    for name, why in wrong.items():
        yield name, _installed(name) or "not installed", why
    import av

    yield "FFmpeg", f"{av.ffmpeg_version_info}, inside PyAV"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _unmet(extra: str) -> Iterator[tuple[str, str]]:
    """Requirements, of the suite or one of its extras, that what is installed does not meet, with the remedy."""
    from packaging.requirements import Requirement

    for text in requires(PACKAGE) or ():
        wanted = Requirement(text)
        if wanted.name == PACKAGE or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
            continue
        if not wanted.marker and extra:
            continue
        found = _installed(wanted.name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            have = "it is not installed" if found is None else f"{found} is installed"
            yield wanted.name, f"{wanted.name}{wanted.specifier} is needed, {have}: pip install '{wanted}'"


def _extras() -> Lines:
    from packaging.requirements import Requirement

    texts = [Requirement(text) for text in requires(PACKAGE) or ()]
    names = sorted({name for text in texts for name in re.findall(r"extra == [\"']([\w-]+)", str(text.marker or ""))})
    for extra in names:
        lacking = [name for name, _ in _unmet(extra)]
        yield extra, f"without {', '.join(lacking)}" if lacking else "installed"


def _devices() -> Lines:
    import torch

    from tvr_lightning.run.accelerators import choose_precision, device_advice

    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version()}"
    for card in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(card)
        yield (
            f"GPU {card}",
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, capability {facts.major}.{facts.minor}",
        )
    if not torch.cuda.is_available():
        yield "GPU", "none that torch can use"
    yield "precision of `auto`", str(choose_precision("auto")), device_advice("auto")


def _processor() -> Lines:
    import torch

    quota = core_quota()
    cores = f"{visible_cores()} of {os.cpu_count()}" + (f", a limit of {quota:g}" if quota else "")
    few = quota is not None and torch.get_num_threads() > max(1, round(quota))
    threads = torch.get_num_threads()
    yield "cores", f"{cores}; torch uses {threads} thread{'s' * (threads != 1)}", (
        f"torch would use {torch.get_num_threads()} threads where {quota:g} cores are allowed: set OMP_NUM_THREADS"
        if few
        else None
    )  # fmt: skip
    memory = _meminfo()
    limits = [limit for limit in (memory_limit(), memory["MemTotal"]) if limit is not None]
    inside = f", a limit of {bytes_in_words(limits[0])}" if len(limits) > 1 else ""
    low = min(*limits, memory["MemAvailable"]) if limits else memory["MemAvailable"]
    yield (
        "memory",
        f"{bytes_in_words(memory['MemTotal'])}, {bytes_in_words(memory['MemAvailable'])} available{inside}",
        (f"{bytes_in_words(low)} of memory may not be enough to train" if low < LOW_MEMORY else None),
    )


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    rows = (re.match(r"(\w+): +(\d+) kB", line) for line in lines)
    return {row[1]: int(row[2]) << 10 for row in rows if row}


def _shared_memory() -> Lines:
    from tvr_lightning.config.options import ROOT
    from tvr_lightning.data.workers import BATCHES_AHEAD, SHARED_MEMORY

    if not SHARED_MEMORY.is_dir():
        yield str(SHARED_MEMORY), "not there"
        return
    room = shutil.disk_usage(SHARED_MEMORY)
    fields = ROOT.slots["data"].fields()
    assert fields is not None
    number = {
        name: int(fields.slots[name].default_value()) for name in ("batch_size", "num_frames", "size", "num_workers")
    }
    batch = number["batch_size"] * number["num_frames"] * 3 * number["size"] ** 2
    need = (number["num_workers"] * BATCHES_AHEAD + 1) * batch
    yield str(SHARED_MEMORY), f"{bytes_in_words(room.total)}, {bytes_in_words(room.free)} free", (
        f"{number['num_workers']} workers with batches of {number['batch_size']} x {number['num_frames']} frames of "
        f"{number['size']} px need {bytes_in_words(need)}: docker run --shm-size={need // 2**30 + 1}g, or "
        "--data.num_workers=0"
        if room.free < need
        else None
    )  # fmt: skip


def _disk(runs_dir: Path) -> Lines:
    places = {"cache": cache_folder(None), "runs": runs_dir.absolute(), "working folder": Path.cwd(),
              "temporary files": Path(tempfile.gettempdir())}  # fmt: skip
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        can = os.access(there, os.W_OK)
        why = f"{place} cannot be written" if not can else f"{bytes_in_words(free)} are free at {place}"
        yield name, f"{place}: {bytes_in_words(free)} free", why if not can or free < LOW_DISK else None


def _cache() -> Lines:
    from tvr_lightning.data.stores.caches import HELD, entries_of, sizes_of
    from tvr_lightning.data.stores.use import used_since

    folder = cache_folder(None)
    in_use = used_since(folder) is not None if folder.is_dir() else False
    yield "folder", str(folder) + (", in use" if in_use else "") + ("" if folder.is_dir() else ", not there yet")
    for part, (files, size, _) in sizes_of(entries_of(folder)).items():
        if files:
            yield part, f"{bytes_in_words(size)} in {files:,} {'file' if files == 1 else 'files'}: {HELD[part]}"
    hub = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    yield "Hugging Face", str(hub) + ("" if hub.is_dir() else ", not there")


def _wandb() -> Lines:
    from tvr_lightning.run.wandb_account import check_online, wandb_has_key, wandb_project

    yield "key", "there" if wandb_has_key() else "none: runs are kept offline"
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb_has_key() else "offline")
    try:
        check_online()
        why = None
    except Exception as error:
        why = one_line(error)
    yield "mode", mode, why
    yield "project", wandb_project()


def _wordnet() -> Lines:
    from tvr_lightning.data.augment_text import find_wordnet

    found = find_wordnet()
    yield (
        "files",
        str(found or "none"),
        (
            None
            if found
            else "captions are augmented without synonyms (SPTCH): make wordnet, or apt install wordnet-base"
        ),
    )


def _experiments() -> Lines:
    from tvr_lightning.config.compose import FOLDER, PACKAGED, experiments_in

    yield (
        "the suite's",
        f"{len(experiments_in(PACKAGED))} in {PACKAGED.resolve()}",
        (None if experiments_in(PACKAGED) else "the package holds no experiments: install it again"),
    )
    here = Path(FOLDER)
    if here.is_dir() and not here.samefile(PACKAGED):
        yield "here", f"{len(experiments_in(here))} in {here.absolute()}"


def _variables() -> Lines:
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def facts(found: list[Finding]) -> dict[str, Any]:
    """The findings as JSON has them: by part and name, and the warnings besides."""
    parts: dict[str, dict[str, str]] = {}
    for finding in found:
        parts.setdefault(finding.part, {})[finding.name] = finding.value
    return {**parts, "warnings": [finding.warning for finding in found if finding.warning]}


def text(found: list[Finding]) -> str:
    """The findings as lines; a warning stands below its line, marked."""
    lines, part = [], ""
    for finding in found:
        if finding.part != part:
            part = finding.part
            lines += ["", part]
        lines.append(f"  {finding.name:20} {finding.value}")
        if finding.warning:
            lines.append(f"  ! {finding.warning}")
    count = sum(finding.warning is not None for finding in found)
    end = "nothing looks wrong" if not count else "1 warning, marked !" if count == 1 else f"{count} warnings, marked !"
    return "\n".join([*lines[1:], "", end])
