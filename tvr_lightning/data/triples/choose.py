"""The extractor by its name."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from tvr_lightning.data.triples.base import CORENLP_URL, SPACY_MODEL, TripleExtractor
from tvr_lightning.errors import ConfigError, nearest

Backend: TypeAlias = Literal["offline", "spacy", "corenlp"]


def make_extractor(backend: Backend = "offline", model: str = SPACY_MODEL, url: str = CORENLP_URL) -> TripleExtractor:
    """Makes an extractor; what it needs is loaded when it first works.

    Args:
        backend: `offline` needs nothing, `spacy` a model that is installed, `corenlp` a server that runs.
        model: spaCy's.
        url: CoreNLP's.

    Raises:
        ConfigError: there is no such backend.
    """
    if backend == "offline":
        from tvr_lightning.data.triples.offline import OfflineTriples

        return OfflineTriples()
    if backend == "spacy":
        from tvr_lightning.data.triples.spacy import SpacyTriples

        return SpacyTriples(model)
    if backend == "corenlp":
        from tvr_lightning.data.triples.corenlp import CoreNLPTriples

        return CoreNLPTriples(url)
    raise ConfigError(f"no backend '{backend}' for triples; {nearest(backend, get_args(Backend))}")
