"""Video files: opening them safely, and reading their packets.

A path is opened here and nowhere else; what is open flows down through the modules of this folder, and out as pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from tvr_lightning.errors import DecodeError

_Result = TypeVar("_Result")

# What names other files, addresses or devices instead of holding pictures: FFmpeg would open those. `image2` takes the
# name of a file for the pattern of many; without it a picture's file is read as the one picture that it is.
_REFERRING = {
    *("concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "svg_pipe", "vobsub"),
    *("webm_dash_manifest", "applehttp", "avisynth", "vapoursynth", "dvdvideo"),
    *("alsa", "fbdev", "kmsgrab", "lavfi", "oss", "pulse", "v4l2", "video4linux2", "x11grab", "xcbgrab"),
}
_FORMATS = ",".join(sorted({name for names in av.formats_available for name in names.split(",")} - _REFERRING))
_HEAD = 4096  # bytes in which such a file shows what it is
_BEGINNINGS = {
    b"ffconcat": "a script that joins other files (ffconcat)",
    b"#extm3u": "a playlist (M3U or HLS)",
    b"[playlist]": "a playlist (PLS)",
    b"[reference]": "a playlist (ASX)",
    b"rtsptext": "a playlist (QuickTime)",
    b"v=0": "the description of a stream (SDP)",
}
_ELEMENTS = re.compile(
    rb"<(mpd|compositionplaylist|assetmap|smoothstreamingmedia|asx|smil|playlist|svg|html|!doctype html)[\s>:]"
)

_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")  # FFmpeg draws the letters of text files as pictures


@contextmanager
def pyav_errors(path: Path) -> Iterator[None]:
    """Turns what PyAV raises, of whatever class, into `DecodeError` with the path; for PyAV's own calls only.

    >>> with pyav_errors(Path("a.mp4")):
    ...     raise ValueError("no such format")
    Traceback (most recent call last):
        ...
    tvr_lightning.errors.DecodeError: a.mp4: cannot be decoded: no such format
    """
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"{path}: cannot be decoded: {reason(error)}") from error


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Opens a file for reading whatever its name; FFmpeg's errors inside the block become `DecodeError`.

    Raises:
        DecodeError: no readable, non-empty regular file, one that only names others, or of no format that FFmpeg knows.
    """
    try:
        if path.exists() and not path.is_file():
            raise DecodeError(f"{path}: not a file but {'a folder' if path.is_dir() else 'a device or pipe'}")
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if not head:
                raise DecodeError(f"{path}: the file is empty (0 bytes); download or copy it again")
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a lone surrogate, a zero
        raise DecodeError(f"{path}: not a possible file name here ({error}); rename it") from error
    if kind := refers_elsewhere(head):
        raise DecodeError(f"{path}: {kind} and no video; nothing that it names is opened. Put the video itself there")
    with pyav_errors(path):
        # The prefix keeps names such as `concat:x` or `-x` from being read as protocols or options, the white lists
        # keep what refers elsewhere in another way from reaching it.
        try:
            container = av.open(
                f"file:{path}",
                mode="r",
                metadata_errors="replace",
                container_options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            )
        except av.error.ArgumentError as error:  # what FFmpeg says of a format that the list lacks
            raise DecodeError(
                f"{path}: cannot be decoded: {reason(error)}. Its content or its name (does it contain a %?) may "
                "stand for "
                "other files, which are not opened; rename it, or put the video itself there"
            ) from error
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise DecodeError(f"{path}: cannot be decoded: {reason(error)}") from error


def refers_elsewhere(head: bytes) -> str | None:
    r"""What a file is that names other files or addresses in place of pictures; None for what may be a video.

    Args:
        head: its first bytes.

    >>> refers_elsewhere(b"#EXTM3U\n#EXTINF:5,\n/etc/passwd")
    'a playlist (M3U or HLS)'
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"\xff\xfe", b"\xfe\xff")) or text[:2] in (b"<\0", b"\0<"):  # UTF-16
        text = text.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").replace(b"\0", b"").lstrip()
    for beginning, kind in _BEGINNINGS.items():
        if text.startswith(beginning):
            return kind
    found = _ELEMENTS.search(text) if text.startswith(b"<") else None
    return f"a page or playlist of XML (<{found[1].decode()}>)" if found else None


class OpenVideo:
    """A video stream of an open file, its decoder set to give each frame before it reads on.

    Args:
        path: the file.
        container: the same, opened.
        index: the stream.
        threads: decoder threads; 0 lets FFmpeg choose.
    """

    def __init__(self, path: Path, container: InputContainer, index: int, threads: int) -> None:
        with pyav_errors(path):
            stream = container.streams[index]
            assert isinstance(stream, VideoStream)
            stream.thread_type = ThreadType.SLICE  # frame threads would decode ahead of what is wanted
            stream.codec_context.thread_count = threads
        self.path = path
        self.container = container
        self.stream = stream
        self.threads = threads

    @contextmanager
    def reopened(self) -> Iterator[OpenVideo]:
        """The stream at its beginning again: in some formats a demuxer that has read on cannot go back there."""
        with open_video(self.path) as container:
            yield OpenVideo(self.path, container, self.stream.index, self.threads)


def first_that_decodes(path: Path, read: Callable[[OpenVideo], _Result], threads: int = 1) -> _Result:
    """Returns what `read` makes of the first video stream that it does not refuse.

    Args:
        path: the video file.
        read: takes the stream of the file, opened afresh.
        threads: decoder threads; parallel processes use the cores already.

    Raises:
        DecodeError: of the first stream, when `read` raises it for all of them.
    """
    refusals: list[DecodeError] = []
    while True:
        with open_video(path) as container:
            with pyav_errors(path):
                indices = video_streams(container, path)
            try:
                return read(OpenVideo(path, container, indices[len(refusals)], threads))
            except DecodeError as refusal:
                refusals.append(refusal)
        if len(refusals) == len(indices):
            raise refusals[0]


def reason(error: Exception) -> str:
    """FFmpeg's message for an error, else PyAV's."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def video_streams(container: InputContainer, path: Path) -> list[int]:
    """Returns the indices of the video streams that FFmpeg can decode, its own choice first; cover pictures are none.

    Raises:
        DecodeError: there is no such stream.
    """
    best = container.streams.best("video")
    streams = [s for s in container.streams.video if s.codec_context is not None]  # None: no decoder
    streams = [s for s in streams if s.codec_context.name not in _TEXT_CODECS]
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = [s.type for s in container.streams]
        found = " and ".join(f"{kinds.count(k)} {k} stream{'s'[: kinds.count(k) > 1]}" for k in dict.fromkeys(kinds))
        raise DecodeError(
            f"{path}: no video stream that can be decoded (cover pictures and text do not count); "
            f"found {found or 'no streams'} in format {container.format.name}"
        )
    return [s.index for s in sorted(streams, key=lambda s: best is None or s.index != best.index)]


def demux(video: OpenVideo) -> Iterator[Packet[VideoStream] | str]:
    """Yields the packets of a stream and, in place of what cannot be read, the reason.

    The last packet is empty and flushes the decoder. Reading continues after errors until a second one follows
    without a packet in between.
    """
    failed = flushed = False
    while True:
        try:
            for other in video.container.streams:
                other.discard = Discard.default if other.index == video.stream.index else Discard.all
            for packet in video.container.demux(video.stream):
                failed, flushed = False, ends_stream(packet)
                yield packet
            return
        except Exception as error:  # PyAV's: what a consumer raises does not come here
            if flushed:  # all packets have come; PyAV then stumbles over streams that FFmpeg has found meanwhile
                return
            yield reason(error)
            if failed:
                return
            failed = True


def ends_stream(packet: Packet[VideoStream]) -> bool:
    """Whether a packet flushes the decoder; an empty one with a time stamp only says "as before"."""
    return not packet.size and packet.dts is None
