"""Weight files: finding, fetching, reading and naming them.

They are read without running code from them, be it torch.save, safetensors or TorchScript.

A TorchScript archive is a zip of raw tensors and a pickle of the module tree. `torch.jit.load` would run the archive's
code, so the pickle is read here by an unpickler that knows tensors and plain containers only.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tvr_lightning.data.stores.archives import check_archive
from tvr_lightning.data.stores.hub import fetch_from_hub, read_json
from tvr_lightning.errors import CheckpointError, few, one_line, short

_FOLDER_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_INDEX = ".index.json"
TIMES_UNPACKED = 4  # of its size on disk: tensors are not compressed, what TorchScript compresses is its code
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_ZIP = b"PK\x03\x04"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_GLOBAL = re.compile(r"GLOBAL ([^\s`]+)")  # torch's words for what is not a tensor
PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of weights: others lose most digits
_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads the named tensors of a weight file; nothing in the file is executed.

    Understands safetensors, what `torch.save` writes (also nested under `state_dict`), TorchScript archives, and the
    index of a model that is spread over several files; drops the `module.` prefix of wrapped models.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something other than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"No weight file at {path}. Check the path, or name a folder that holds one.")
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    try:
        content = _read_content(path)
    except Exception as error:
        why = why_unreadable(path, error)
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} was refused: it holds objects other than tensors, or it is damaged ({why}). Loading it would "
                "run code from the file. Save the tensors alone: torch.save(model.state_dict(), path)."
            ) from error
        raise CheckpointError(
            f"{path} cannot be read ({why}). It may be damaged or incomplete: fetch it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no state dict (found: {describe(content)}). Save one: torch.save(model.state_dict(), path)."
        )
    return distinct(
        ((str(name), str(name).removeprefix("module."), x) for name, x in content.items() if isinstance(x, Tensor)),
        path,
    )


def distinct(named: Iterable[tuple[str, str, Tensor]], source: Path | str) -> dict[str, Tensor]:
    """Tensors under other names than a file has, of which no two may become one.

    Args:
        named: the name in the file, the name to be, and the tensor.
        source: the file, for the message.

    Raises:
        CheckpointError: two tensors get one name; which of them is meant nobody can say.

    >>> distinct([("module.a", "a", torch.zeros(1))], "x.bin").keys()
    dict_keys(['a'])
    """
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for before, name, x in named:
        if name in found:
            raise CheckpointError(
                f"{source} holds two tensors for one parameter, {short(name)}: {short(names[name])} and "
                f"{short(before)}. "
                "Remove one of them from the file"
            )
        found[name], names[name] = x, before
    return found


def why_unreadable(path: Path, error: BaseException) -> str:
    """Why a weight file cannot be read, in our words: torch's own advise loading it unsafely, or name its options.

    Args:
        path: the file.
        error: what reading it raised.

    >>> why_unreadable(Path("/dev/null"), RuntimeError("mmap can only be used with files saved with ..."))
    'it is empty'
    """
    if isinstance(error, OSError):
        return one_line(error)
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "it is empty"
    if start.startswith(_ZIP) and not zipfile.is_zipfile(path):
        return "it is cut off: an archive without its end"
    chain: BaseException | None = error
    told = ""
    while chain is not None and not told:
        named = _GLOBAL.search(str(chain))
        told = f"it names {short(named[1])}, which is neither a tensor nor a plain value" if named else ""
        chain = chain.__context__ or chain.__cause__
    if told:
        return told
    if path.suffix != ".safetensors" and not start.startswith((_ZIP, *_PICKLES)):
        return f"it begins with {start.decode('utf-8', 'replace')!r}, which no file of torch.save does"
    why = one_line(error)
    if not why or any(word in why for word in ("weights_only", "mmap", "torch.")):
        return f"its content is damaged or of another kind ({type(error).__name__})"
    return short(why, 160)


def shards(index: Path) -> dict[str, list[str]]:
    """The files that an index names, each with its tensors.

    Raises:
        CheckpointError: it is not an index, or names files elsewhere.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise CheckpointError(f"{index} has no `weight_map`, which names the file of every tensor. Fetch it again.")
    found: dict[str, list[str]] = {}
    for tensor, file in table.items():
        if Path(file).name != file or not file.endswith(SUFFIXES):
            raise CheckpointError(f"{index} names the file {file!r}: it may only name weight files beside it")
        found.setdefault(file, []).append(tensor)
    return found


def _read_shards(index: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file, tensors in shards(index).items():
        part = read_state_dict(index.with_name(file))
        if lacking := [name for name in tensors if name not in part]:
            raise CheckpointError(f"{index.with_name(file)} lacks {few(lacking)}, which {index.name} says it holds")
        state |= {name: part[name] for name in tensors}
    return state


def fetch_weights(repository: str) -> Path:
    """Downloads the weights of a Hugging Face repository, whole or in shards, and what describes them.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointError: the repository cannot be reached or has no weights.
    """
    setting = "model (as local-dir:FOLDER)"
    indexes = tuple(f"{name}{_INDEX}" for name in _FOLDER_FILES)
    folder = fetch_from_hub(repository, ((*_FOLDER_FILES, *indexes),), setting)
    file = find_weight_file(folder)
    if file.name.endswith(_INDEX):
        fetch_from_hub(repository, [(name,) for name in shards(file)], setting)
    return folder


def shipped_weights(architecture: str, model: str) -> dict[str, Path]:
    """The weight files that the package carries for a model, by the name that `from_pretrained` calls them.

    `synthetic/weights/clip-tiny-shapes.safetensors` is `shapes` of CLIP's `tiny`.
    """
    start = f"{architecture}-{model}-"
    files = (Path(__file__).parents[1] / "synthetic" / "weights").glob(f"{start}*.safetensors")
    return {file.stem.removeprefix(start): file for file in sorted(files)}


def find_weight_file(path: Path) -> Path:
    """Returns the weight file of a folder, or the path itself when it is not a folder.

    Raises:
        CheckpointError: the folder holds no weight file, or several of which none has a usual name.
    """
    if not path.is_dir():
        return path
    present = sorted(p.name for p in path.iterdir() if p.is_file())
    for name in _FOLDER_FILES:
        if name in present:
            return path / name
    candidates = [name for name in present if name.endswith(_INDEX)]
    candidates = candidates or [name for name in present if name.endswith(SUFFIXES)]
    if len(candidates) == 1:
        return path / candidates[0]
    found = ", ".join((candidates or present)[:5]) or "nothing"
    raise CheckpointError(
        f"{path} holds {'several weight files' if candidates else 'no weight file'} (found: {found}). "
        f"Name the file itself, or use one of the usual names: {', '.join(_FOLDER_FILES)}."
    )


def differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Returns one line for every tensor that is missing, superfluous, of another shape or no plain numbers."""
    problems = []
    for name, tensor in expected.items():
        x, said = found.get(name), short(name)
        if x is None:
            problems.append(f"{said}: missing")
        elif x.shape != tensor.shape:
            problems.append(f"{said}: expected {tuple(tensor.shape)}, found {tuple(x.shape)}")
        elif x.layout != torch.strided or x.is_meta:
            problems.append(f"{said}: holds no plain numbers")
        elif x.is_floating_point() != tensor.is_floating_point():
            problems.append(f"{said}: expected {tensor.dtype}, found {x.dtype}")
        elif x.is_floating_point() and x.dtype not in PLAIN_DTYPES:
            problems.append(f"{said}: found {x.dtype}; weights are read in 16 bits or more, without scales beside them")
    return problems + [f"{short(name)}: not part of the model" for name in found if name not in expected]


def weight_mismatch(source: Path | str, model: str, problems: Sequence[str], hint: str = "") -> CheckpointError:
    """Returns the error for weights of another model; names the first problems and counts the rest."""
    return CheckpointError(
        f"{source} does not fit {model}: {few(problems, separator='; ')}. {hint}"
        "Set `model` (or `size`) to the model that these weights belong to."
    )


class Fingerprint:
    """Names what an encoder computes: its description and every weight; the key of features that are kept.

    Hashing takes a moment with hundreds of megabytes: a frozen encoder's name is kept until weights are loaded into it.
    """

    def __init__(self) -> None:
        self._state: tuple[object, ...] = ()
        self._name = ""

    def of(self, module: nn.Module, description: object) -> str:
        """Returns the name of `module`, with a description in plain values; device and memory layout do not matter."""
        description = json.dumps(description, sort_keys=True)
        tensors = sorted(module.state_dict().items())
        state = (description, *((name, x.data_ptr(), x._version) for name, x in tensors))
        # fused optimisers write weights without counting a new version
        trained = any(x.requires_grad for x in module.parameters())
        if trained or state != self._state:
            content = hashlib.blake2b(f"{type(module).__qualname__} {description}".encode(), digest_size=16)
            for name, x in tensors:
                content.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
                content.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self._state, self._name = state, content.hexdigest()
        return self._name


def _read_content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    check_archive(path, TIMES_UNPACKED)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_torchscript(archive)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_checkpoint(path: Path) -> Any:
    """Reads what `torch.save` wrote, its tensors left on the disk until they are looked at; runs no code from it.

    Raises:
        UnpackedSizeError: an archive that unpacks to far more than it is.
        Exception: whatever torch raises for a file that is damaged or holds something else.
    """
    check_archive(path, TIMES_UNPACKED)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def describe(content: Any) -> str:
    """What a file holds that is not a state dict, in a few words."""
    if isinstance(content, Mapping):
        return "keys " + ", ".join(short(repr(key)) for key in list(content)[:5]) if content else "an empty dict"
    return f"a {type(content).__name__}"


class _ScriptObject:
    """What a TorchScript module becomes: its attributes, and none of its code."""

    attributes: Mapping[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in self.attributes.items():
            if isinstance(value, Tensor):
                found[name] = value
            elif isinstance(value, _ScriptObject):
                found |= {f"{name}.{inner}": tensor for inner, tensor in value.tensors().items()}
        return found


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if prod(size) > storage.numel():  # strides of 0 would make a terabyte of one number
        raise pickle.UnpicklingError(f"a tensor of {prod(size):,} numbers in a storage of {storage.numel():,}")
    # as_strided checks the bounds of the storage
    return torch.as_strided(storage, size, stride, offset).clone()


def _rebuild_container(value: Any, *_: Any) -> Any:
    return value


class _TorchScriptUnpickler(pickle.Unpickler):
    """Unpickles a module tree; every global that is neither tensor, container nor script class is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _ScriptObject
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch.jit._pickle":
            return _rebuild_container
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a TorchScript module")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        raw = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    names = archive.namelist()
    root = next(name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")).partition("/")[0]
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("the archive was written on a big-endian machine")
    module = _TorchScriptUnpickler(archive, root).load()
    if not isinstance(module, _ScriptObject):
        raise pickle.UnpicklingError(f"the archive holds a {type(module).__name__} instead of a module")
    return module.tensors()
