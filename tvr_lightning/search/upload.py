"""Taking a clip from a client: limited in size while it arrives, in an unnamed file that is gone in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

FIELD = "video"
PATIENCE = 30.0  # seconds without a byte
LONGEST = 900.0  # seconds for a whole clip
OVERHEAD = 16 << 10  # bytes of a form besides its clip
NAME = 100  # letters of a clip's name that are kept


class Upload(NamedTuple):
    """A clip, and the other fields of its form."""

    file: UploadFile
    name: str
    fields: dict[str, str]


@asynccontextmanager
async def uploaded(request: Request, most: int) -> AsyncIterator[Upload]:
    """Reads a form with a clip.

    Args:
        request: whose body it is.
        most: bytes of the clip.

    Raises:
        HTTPException: 413 too large, 408 too slow, 400 no such form, 507 there is no room for it.
    """
    too_large = HTTPException(413, f"the clip is larger than {most / 1e6:g} MB", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > most + OVERHEAD:
        raise too_large
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(400, f"send the clip as multipart/form-data, in the field '{FIELD}'")

    async def bounded() -> AsyncGenerator[bytes, None]:
        got = 0
        chunks = request.stream()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), PATIENCE)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise HTTPException(
                    408, f"nothing came for {PATIENCE:g} seconds: send the clip again", {"Connection": "close"}
                ) from None
            got += len(chunk)
            if got > most + OVERHEAD:
                raise too_large
            yield chunk

    parser = MultiPartParser(request.headers, bounded(), max_files=1, max_fields=4, max_part_size=OVERHEAD)
    try:
        async with asyncio.timeout(LONGEST):
            form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # older releases of starlette let the parser's own through
        raise HTTPException(400, f"the form cannot be read: {error}", {"Connection": "close"}) from None
    except (UnicodeError, LookupError):
        raise HTTPException(
            400, "the form's texts are not in the charset that it names: send it in UTF-8", {"Connection": "close"}
        ) from None
    except TimeoutError:
        raise HTTPException(
            408, f"the clip did not arrive within {LONGEST / 60:g} minutes", {"Connection": "close"}
        ) from None
    except OSError as error:
        raise HTTPException(
            507, f"the server cannot keep the clip: {error.strerror}", {"Connection": "close"}
        ) from None
    try:
        file = form.get(FIELD)
        if not isinstance(file, UploadFile):
            raise HTTPException(400, f"the form has no file in the field '{FIELD}'")
        if (file.size or 0) > most:
            raise too_large
        name = " ".join("".join(c if c.isprintable() else " " for c in file.filename or "").split())[:NAME]
        yield Upload(file, name or "without a name", {k: v for k, v in form.items() if isinstance(v, str)})
    finally:
        await form.close()
