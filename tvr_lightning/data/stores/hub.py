"""Files that are fetched by name, from a model hub or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tvr_lightning.errors import CheckpointError, TVRError

_postponed = ContextVar("_postponed", default=False)


class FetchPostponedError(TVRError):
    """Something has to be fetched, inside `without_fetching`."""


@contextmanager
def without_fetching() -> Iterator[None]:
    """Lets nothing be fetched while the block runs: what is wrong without a download shows before one begins."""
    token = _postponed.set(True)
    try:
        yield
    finally:
        _postponed.reset(token)


def before_fetching(what: str) -> None:
    """Stands before every download.

    Raises:
        FetchPostponedError: inside `without_fetching`.
    """
    if _postponed.get():
        raise FetchPostponedError(f"{what} is not fetched yet")


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object beside a weight file, an empty one where there is no file.

    Raises:
        CheckpointError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of an object. Fetch it again.")
    return content


def fetch_from_hub(repository: str, files: Sequence[Sequence[str]], setting: str) -> Path:
    """Downloads files of a Hugging Face repository, or finds them where an earlier download left them.

    Args:
        repository: its name, e.g. `bert-base-uncased`.
        files: for each file its possible names; the first that the repository holds is taken.
        setting: the argument that a local path can be given in, for the message.

    Returns:
        The folder that holds them.

    Raises:
        CheckpointError: the repository cannot be reached or has none of a file's names.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    before_fetching(repository)
    folder = Path()
    for names in files:
        for name in names:
            try:
                folder = Path(hf_hub_download(repository, name)).parent
                break
            except Exception as error:
                # the local kind means no network, not a repository without this file
                if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                    continue
                raise CheckpointError(
                    f"There is no local path '{repository}', and {name} of the Hugging Face repository of that name "
                    f"could not be downloaded ({type(error).__name__}). Without a network, fetch the repository's "
                    f"files elsewhere and set {setting} to the local folder."
                ) from error
        else:
            raise CheckpointError(f"The Hugging Face repository {repository} holds no {' and no '.join(names)}.")
    return folder
