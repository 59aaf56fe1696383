"""Vector indexes: one small protocol, FAISS on this machine, or Milvus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.stores.files import atomic_write, save_tensors
from tvr_lightning.errors import ConfigError, SearchError

Kind = Literal["float", "code"]
Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class VectorIndex(Protocol):
    """Vectors under numbers, found by their inner product.

    Vectors are float32 (N, D), or codes (N, K) int8 of -1 and +1, whose inner product is K - 2 x Hamming distance.
    """

    def add(self, ids: NDArray[np.int64], vectors: NDArray[Any]) -> None:
        """Takes vectors under numbers that it does not hold yet."""

    def delete(self, ids: NDArray[np.int64]) -> None:
        """Forgets vectors; numbers that it does not hold are skipped."""

    def search(self, queries: NDArray[Any], k: int) -> Found:
        """The k largest inner products of each query, largest first, and their numbers; all where there are fewer.

        Returns:
            (Q, k) each.
        """

    def ids(self) -> NDArray[np.int64]:
        """The numbers that it holds, increasing."""

    def __len__(self) -> int:
        """How many vectors it holds."""


EXACT_UP_TO = 500_000
"""Float vectors that are compared one by one; above, `IVF_LISTS` of them are looked through (benchmarks/search.py)."""
IVF_LISTS, IVF_PROBED = 4096, 64
TRAINED_ON = 50  # vectors a list that its centre is learned from


class FaissVectors:
    """FAISS on this machine: exact, or by inverted lists.

    Args:
        kind: what the vectors are.
        width: D or K.
        exact: whether every vector is looked at; codes always are.
    """

    def __init__(self, kind: Kind, width: int, exact: bool = True) -> None:
        import faiss

        self.kind = kind
        self.width = width
        self.exact = exact or kind == "code"
        self._index: Any
        if kind == "code":
            self._index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(8 * -(-width // 8)))
        elif exact:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(width))
        else:
            lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, IVF_LISTS, faiss.METRIC_INNER_PRODUCT)
            lists.nprobe = IVF_PROBED
            self._index = lists

    def train(self, vectors: NDArray[np.float32]) -> None:
        """Learns the centres of the lists, where there are lists, from a sample of the vectors."""
        if not self.exact and not self._index.is_trained:
            self._index.train(vectors[: TRAINED_ON * IVF_LISTS])

    def fill(
        self, centres: NDArray[np.float32], lists: NDArray[np.int64], ids: NDArray[np.int64], vectors: NDArray[Any]
    ) -> None:
        """Takes vectors into lists whose centres are known, without comparing them with these."""
        import faiss

        self._index.quantizer.add(np.ascontiguousarray(centres, dtype=np.float32))
        self._index.is_trained = True
        stored = self._stored(vectors)
        self._index.add_core(len(ids), faiss.swig_ptr(stored), faiss.swig_ptr(ids), faiss.swig_ptr(lists), None)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[Any]) -> None:
        """See `VectorIndex`."""
        self._index.add_with_ids(self._stored(vectors), np.ascontiguousarray(ids, dtype=np.int64))

    def delete(self, ids: NDArray[np.int64]) -> None:
        """See `VectorIndex`."""
        if len(ids):
            self._index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64))

    def search(self, queries: NDArray[Any], k: int) -> Found:
        """See `VectorIndex`; -1 stands for numbers where the lists that were looked through hold fewer than k."""
        scores, ids = self._index.search(self._stored(queries), min(k, len(self)))
        if self.kind == "code":
            return (self.width - 2 * scores).astype(np.float32), ids
        return scores, ids

    def ids(self) -> NDArray[np.int64]:
        """See `VectorIndex`."""
        import faiss

        held = self._index.invlists if not self.exact else None
        if held is None:
            return np.sort(faiss.vector_to_array(self._index.id_map))
        parts = [
            faiss.rev_swig_ptr(held.get_ids(i), held.list_size(i)).copy()
            for i in range(held.nlist)
            if held.list_size(i)
        ]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """See `VectorIndex`."""
        return int(self._index.ntotal)

    def _stored(self, vectors: NDArray[Any]) -> NDArray[Any]:
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(f"vectors must be (items, {self.width}), got {vectors.shape}")
        if self.kind == "code":
            from tvr_lightning.evaluation.code_files import pack_codes  # torch comes with it

            return pack_codes(vectors)
        return np.ascontiguousarray(vectors, dtype=np.float32)


LISTS = "lists.safetensors"


def keep_lists(folder: Path, kind: Kind, ids: NDArray[np.int64], vectors: NDArray[Any]) -> None:
    """Learns and writes FAISS's inverted lists of a large index: their centres, and which list each vector is in.

    FAISS's own files are not read: they are trusted by its reader, and an index may come from elsewhere.
    """
    path = folder / LISTS
    if kind == "code" or len(ids) <= EXACT_UP_TO:
        path.unlink(missing_ok=True)
        return
    import faiss
    import torch

    learner = FaissVectors(kind, vectors.shape[1], exact=False)
    chosen = np.random.default_rng(0).permutation(len(vectors))[: TRAINED_ON * IVF_LISTS]
    learner.train(vectors[np.sort(chosen)])
    centres = faiss.downcast_index(learner._index.quantizer).reconstruct_n(0, IVF_LISTS)
    _, lists = learner._index.quantizer.search(np.ascontiguousarray(vectors, dtype=np.float32), 1)
    with atomic_write(path) as temporary:
        save_tensors(
            temporary,
            {
                "centres": torch.from_numpy(centres),
                "ids": torch.from_numpy(ids),
                "lists": torch.from_numpy(lists[:, 0].astype(np.int32)),
            },
        )


def local_vectors(folder: Path, kind: Kind, ids: NDArray[np.int64], vectors: NDArray[Any]) -> FaissVectors:
    """FAISS over all vectors of an index; by its inverted lists where they are kept and of these very vectors."""
    index = FaissVectors(kind, vectors.shape[1], exact=True)
    if (
        kind == "float"
        and len(ids) > EXACT_UP_TO
        and (kept := _read_lists(folder / LISTS, ids, vectors.shape[1])) is not None
    ):
        index = FaissVectors(kind, vectors.shape[1], exact=False)
        index.fill(*kept, ids, vectors)
        return index
    index.add(ids, vectors)
    return index


def _read_lists(path: Path, ids: NDArray[np.int64], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path) if path.is_file() and not path.is_symlink() else {}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    if set(found) != {"centres", "ids", "lists"} or not np.array_equal(found["ids"], ids):
        return None
    centres, lists = found["centres"], found["lists"]  # FAISS trusts their shapes
    if centres.shape != (IVF_LISTS, width) or centres.dtype != np.float32 or not np.isfinite(centres).all():
        return None
    if lists.shape != ids.shape or lists.dtype != np.int32 or lists.min() < 0 or lists.max() >= IVF_LISTS:
        return None
    return centres, lists.astype(np.int64)


def milvus_place(text: str) -> tuple[str, str] | None:
    """Where a collection of Milvus lies: `milvus://host:19530/collection`, or a local file `name.db[/collection]`.

    Returns:
        What its client connects to, and the collection; None for no place of Milvus.

    Raises:
        ConfigError: it names no collection, or not as Milvus wants it.

    >>> milvus_place("milvus://10.0.0.5:19530/clips"), milvus_place("clips.db"), milvus_place("faiss")
    (('http://10.0.0.5:19530', 'clips'), ('clips.db', 'windows'), None)
    """
    server, _, rest = text.partition("://")
    if server in ("milvus", "milvuss") and rest:
        host, _, collection = rest.partition("/")
        place = f"{'https' if server == 'milvuss' else 'http'}://{host}"
    elif ".db" in text and Path(text.partition(".db")[0]).name:
        before, _, after = text.partition(".db")
        place, collection = f"{before}.db", after.strip("/") or "windows"
    else:
        return None
    if not collection.isidentifier() or not collection.isascii():
        raise ConfigError(
            f"{text} names the collection {collection!r}: letters, digits and _ only, as in milvus://host:19530/clips"
        )
    return place, collection


BATCH = 1000  # vectors that travel together


class MilvusVectors:
    """A collection of Milvus: a server, or a local file with milvus-lite, which has no binary vectors.

    There codes are float vectors of -1 and +1 under the inner product, the same order; a server holds them as bits.

    Args:
        place: of `milvus_place`.
        collection: its name.
        kind: what the vectors are.
        width: D or K.
        make: makes the collection where it is missing; else asking for it fails.

    Raises:
        SearchError: the server cannot be reached, or the collection is another's.
        ConfigError: pymilvus is not installed.
    """

    def __init__(self, place: str, collection: str, kind: Kind, width: int, make: bool = True) -> None:
        try:
            from pymilvus import DataType, MilvusClient
        except ImportError as error:
            raise ConfigError(f"{place} needs pymilvus: pip install 'tvr-lightning[milvus]' ({error})") from None
        libraries = ("pymilvus", "milvus_lite")  # they log each error with a traceback, and raise it too
        own = [name for name in logging.root.manager.loggerDict if name.startswith(libraries)]
        for log in map(logging.getLogger, {*libraries, *own}):
            if log.name in libraries or log.level:  # old releases set levels below the library's own
                log.setLevel(logging.CRITICAL)
        self.place, self.collection, self.kind, self.width = place, collection, kind, width
        self.local = "://" not in place
        self.binary = kind == "code" and not self.local
        if self.local and not make and not Path(place).exists():  # the client would make it
            raise SearchError(f"{place}, where the index keeps its vectors, does not exist: find it, or index again")
        field = DataType.BINARY_VECTOR if self.binary else DataType.FLOAT_VECTOR
        dim = 8 * -(-width // 8) if self.binary else width
        metric = "HAMMING" if self.binary else "IP"
        try:
            self._client: Any = MilvusClient(place, timeout=10)
            there = self._client.has_collection(collection)
            if not there and not make:
                return
            if not there:
                schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("id", DataType.INT64, is_primary=True)
                schema.add_field("vector", field, dim=dim)
                index = self._client.prepare_index_params()
                index.add_index("vector", index_type="BIN_FLAT" if self.binary else "FLAT", metric_type=metric)
                self._client.create_collection(
                    collection, schema=schema, index_params=index, consistency_level="Strong"
                )
            described = self._client.describe_collection(collection)["fields"]
        except Exception as error:
            raise self._fault(error) from error
        found = next((f for f in described if f["name"] == "vector"), None)
        if found is None or int(found["params"]["dim"]) != dim or found["type"] != field:
            raise SearchError(
                f"the collection {collection} of {place} holds other vectors than {width} of {kind}: name another one"
            )

    def add(self, ids: NDArray[np.int64], vectors: NDArray[Any]) -> None:
        """See `VectorIndex`."""
        for i in range(0, len(ids), BATCH):
            rows = [
                {"id": number, "vector": vector}
                for number, vector in zip(ids[i : i + BATCH].tolist(), self._sent(vectors[i : i + BATCH]), strict=True)
            ]
            self._ask("upsert", data=rows)

    def delete(self, ids: NDArray[np.int64]) -> None:
        """See `VectorIndex`."""
        for i in range(0, len(ids), BATCH):
            self._ask("delete", ids=ids[i : i + BATCH].tolist())

    def search(self, queries: NDArray[Any], k: int) -> Found:
        """See `VectorIndex`."""
        k = min(k, len(self))
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        answers = self._ask("search", data=self._sent(queries), limit=k, output_fields=["id"])
        scores = np.array([[hit["distance"] for hit in hits] for hits in answers], dtype=np.float32)
        ids = np.array([[hit["id"] for hit in hits] for hits in answers], dtype=np.int64)
        return (self.width - 2 * scores if self.binary else scores), ids

    def ids(self) -> NDArray[np.int64]:
        """See `VectorIndex`."""
        found: list[int] = []
        pages = self._ask("query_iterator", batch_size=BATCH, filter="id >= 0", output_fields=["id"])
        while page := pages.next():
            found += [row["id"] for row in page]
        pages.close()
        return np.sort(np.array(found, dtype=np.int64))

    def __len__(self) -> int:
        """See `VectorIndex`."""
        return int(self._ask("query", filter="", output_fields=["count(*)"])[0]["count(*)"])

    def _ask(self, what: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client, what)(self.collection, **arguments)
        except Exception as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> SearchError:
        reason = str(getattr(error, "message", error)).splitlines()[0][:300]
        return SearchError(
            f"Milvus at {self.place} gave no answer for the collection {self.collection}: {reason}. Is the server up "
            "(docker compose --profile milvus up), and the file not in use by another process?"
        )

    def _sent(self, vectors: NDArray[Any]) -> Sequence[Any]:
        if self.binary:
            from tvr_lightning.evaluation.code_files import pack_codes

            return [row.tobytes() for row in pack_codes(vectors)]
        sent: list[Any] = np.asarray(vectors, dtype=np.float32).tolist()
        return sent


def check_place(place: str | None) -> None:
    """Refuses a place of vectors that is none.

    Raises:
        ConfigError: it names neither a server of Milvus nor a local file.
    """
    if place is not None and milvus_place(place) is None:
        raise ConfigError(
            f"--index {place}: give milvus://HOST:19530/COLLECTION, or a local file for milvus-lite such as clips.db"
        )


def check_vectors(place: str, kind: Kind, width: int) -> None:
    """Sees that a place can take vectors, before there are any; what is not there yet is made later.

    Raises:
        ConfigError: the place is none.
        SearchError: it cannot be used.
    """
    found = milvus_place(place)
    if found is None or "://" in found[0] or Path(found[0]).exists():
        open_vectors(place, kind, width, 0, make=False)
    elif not Path(found[0]).absolute().parent.is_dir():
        raise SearchError(f"cannot keep vectors in {found[0]}: there is no folder {Path(found[0]).absolute().parent}")


def open_vectors(place: str | None, kind: Kind, width: int, count: int, make: bool = True) -> VectorIndex:
    """An empty FAISS index, or the collection of Milvus as it is.

    Args:
        place: None for FAISS, else what `milvus_place` reads.
        kind: what the vectors are.
        width: D or K.
        count: how many vectors there will be; chooses FAISS's form.
        make: see `MilvusVectors`.

    Raises:
        ConfigError: the place is none.
        SearchError: it cannot be used.
    """
    if place is None:
        return FaissVectors(kind, width, exact=count <= EXACT_UP_TO)
    check_place(place)
    found = milvus_place(place)
    assert found is not None
    return MilvusVectors(*found, kind, width, make)
