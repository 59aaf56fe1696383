"""`tvr triples`: print what captions say as subject, relation and object, and which of their words are nodes.

It also writes captions as files that Stanford CoreNLP can read.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tvr_lightning.commands.parser import Parser
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.visible import json_text, say

if TYPE_CHECKING:
    from tvr_lightning.data.triples.base import Span, Triple


OVERVIEW = """\
  triples   print what captions say               tvr triples "a man in a red shirt is playing a guitar"
"""


def main(words: Sequence[str]) -> int:
    """Runs `tvr triples ...`; returns the exit code.

    Raises:
        ConfigError: there are no captions, or the backend cannot work.
        DataError: captions or CoreNLP's files cannot be read.
        RunError: captions cannot be written.
    """
    from tvr_lightning.data.triples.base import SPACY_MODEL, Nodes, chosen_words
    from tvr_lightning.data.triples.cached import CachedTriples
    from tvr_lightning.data.triples.choose import Backend, make_extractor

    parser = Parser(
        "tvr triples",
        description="Print the subject-relation-object triples of captions, and the words that are textual nodes.",
        epilog="Triples are kept in the user's cache folder: no caption is parsed twice.",
    )
    parser.add_argument("captions", nargs="*", metavar="CAPTION")
    parser.add_argument("--file", type=Path, help="more captions, one per line (UTF-8)")
    parser.add_argument("--config", type=Path, help="all captions of an experiment's dataset: experiments/NAME.yaml")
    parser.add_argument("--backend", choices=get_args(Backend), default="offline", help="default: offline")
    parser.add_argument("--model", help=f"of spacy (default: {SPACY_MODEL})")
    parser.add_argument("--path", type=Path, help="of corenlp_json: a folder with CoreNLP's output, or one file of it")
    parser.add_argument(
        "--nodes",
        choices=get_args(Nodes),
        default="triples",
        help="the words of the triples, of their subjects and objects only, or all (default: triples)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per caption, with character spans")
    parser.add_argument("--cache_dir", type=Path, help="where triples are kept (default: the user's cache folder)")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the captions as files for CoreNLP, and print nothing else"
    )
    options, settings = parser.parse_known_args(words[1:])
    if settings and not options.config:
        parser.error(f"unrecognized arguments: {' '.join(settings)}")

    for name, backend in (("model", "spacy"), ("path", "corenlp_json")):
        if getattr(options, name) is not None and options.backend != backend:
            raise ConfigError(f"--{name} is for --backend {backend}; the backend here is {options.backend}")

    captions = [*options.captions, *(_lines(options.file) if options.file else [])]
    if options.config:
        captions += _captions_of(options.config, settings)
    if not captions:
        raise ConfigError(
            'no captions: give some, `tvr triples "a man plays a guitar"`, --file captions.txt, or --config X.yaml'
        )
    for caption in options.captions:
        if any("\ud800" <= letter <= "\udfff" for letter in caption):  # a shell passes any bytes on
            raise ConfigError(f"caption {caption!a} is not UTF-8 text")
    if options.write:
        from tvr_lightning.data.triples.corenlp import command, write_captions

        files = write_captions(captions, options.write)
        say(f"files of captions in {options.write}: {len(files):,}. In the folder of Stanford CoreNLP run\n")
        say(f"  {command(options.write)}\n")
        say(f"then: tvr triples --backend corenlp_json --path {shlex.quote(str(options.write))} ...")
        return 0
    extractor = CachedTriples(
        make_extractor(options.backend, options.model or SPACY_MODEL, options.path), options.cache_dir
    )
    for caption, triples in zip(captions, extractor.extract(captions), strict=True):
        nodes = chosen_words(caption, triples, options.nodes)
        say(_as_json(caption, triples, nodes) if options.json else _as_text(caption, triples, nodes))
    return 0


def _captions_of(config: Path, settings: Sequence[str]) -> list[str]:
    from tvr_lightning.run.reader import reader_of

    reader = reader_of(config, settings)
    return [caption for split in reader.splits for record in reader.load(split) for caption in record.captions]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Give a text file with one caption per line.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error


def _as_text(caption: str, triples: Sequence[Triple], nodes: Sequence[Span]) -> str:
    found = [f"  {' | '.join(phrase.text or '-' for phrase in triple)}" for triple in triples] or ["  no triple"]
    return "\n".join([caption, *found, f"  nodes: {' '.join(caption[start:end] for start, end in nodes)}"])


def _as_json(caption: str, triples: Sequence[Triple], nodes: Sequence[Span]) -> str:
    found = [{name: phrase._asdict() for name, phrase in triple._asdict().items()} for triple in triples]
    return json_text({"caption": caption, "triples": found, "nodes": nodes})
