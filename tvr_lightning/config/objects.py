"""Objects that a configuration describes, built by the parser: it checks a class against its slot before any call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import ConfigError, TVRError

if TYPE_CHECKING:
    from tvr_lightning.data.annotations.base import Annotations


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what the parser raises into our errors.

    Raises:
        ConfigError: the parser's own message, without the configuration's text, which it repeats.
        TVRError: what a constructor raised, which the parser wraps.
    """
    from jsonargparse import ArgumentError

    try:
        yield
    except ArgumentError as error:
        lines = str(error.message or error).splitlines()
        raise ConfigError("\n".join(line for line in lines if not line.lstrip().startswith("Given value:"))) from None
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TVRError):
            cause = cause.__cause__
        raise cause or error from None


def build_reader(config: Mapping[str, Any]) -> Annotations | None:
    """Builds an experiment's reader alone; None where the experiment names none.

    Raises:
        TVRError: it is no reader, or refuses its arguments.
    """
    from jsonargparse import ArgumentParser

    from tvr_lightning.data.annotations.base import Annotations

    part = (config.get("data") or {}).get("annotations")
    if not part:
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Annotations, "data.annotations")
    with readable_errors():
        parsed = parser.parse_object({"data": {"annotations": part}})
        reader: Annotations = parser.instantiate_classes(parsed).data.annotations
    return reader
