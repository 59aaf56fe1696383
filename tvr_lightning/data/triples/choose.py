"""The extractor by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from tvr_lightning.data.triples.base import SPACY_MODEL, TripleExtractor
from tvr_lightning.errors import ConfigError, nearest

Backend: TypeAlias = Literal["offline", "spacy", "corenlp_json"]


def make_extractor(
    backend: Backend = "offline", model: str = SPACY_MODEL, path: str | Path | None = None
) -> TripleExtractor:
    """Makes an extractor; what it needs is loaded when it first works.

    Args:
        backend: `offline` needs nothing, `spacy` a model that is installed, `corenlp_json` what CoreNLP has written.
        model: spaCy's.
        path: of CoreNLP's files: their folder, or one of them.

    Raises:
        ConfigError: there is no such backend, or no path is given for `corenlp_json`.
    """
    if backend == "offline":
        from tvr_lightning.data.triples.offline import OfflineTriples

        return OfflineTriples()
    if backend == "spacy":
        from tvr_lightning.data.triples.spacy import SpacyTriples

        return SpacyTriples(model)
    if backend == "corenlp_json":
        from tvr_lightning.data.triples.corenlp import CoreNLPFiles

        if path is None:
            raise ConfigError(
                "corenlp_json reads what CoreNLP has written: give the folder with --path; docs/triples.md says how to "
                "make it."
            )
        return CoreNLPFiles(path)
    raise ConfigError(f"no backend '{backend}' for triples; {nearest(backend, get_args(Backend))}")
