"""What a method shows of a caption and a video: weights, scores and vectors, with the words and frames they belong to.

A method gives views (`RetrievalModule.explain`) and knows nothing of pictures; what draws them (`run.pictures`,
`report.inspection`) knows nothing of methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tvr_lightning.types import TextInput, VideoInput


@dataclass(frozen=True)
class Word:
    """A place of the caption.

    Attributes:
        tokens: its pieces, positions in `TextInput.tokens`.
        prefix: what stands before it in a label, where something of the word is meant and not the word.
    """

    tokens: tuple[int, ...]
    prefix: str = ""


@dataclass(frozen=True)
class Frame:
    """A frame of the video.

    Attributes:
        place: its position among the frames.
    """

    place: int


Label = str | Word | Frame


@dataclass(frozen=True)
class Weights:
    """Numbers of rows and columns, each of which is a word, a frame or something with a name.

    Attributes:
        title: what it is.
        rows: R labels; a single row is drawn as bars, or as a line where the columns are frames.
        columns: C labels.
        values: (R, C); not a number where a row and a column have nothing to do with each other.
        unit: of the values.

    Raises:
        ValueError: the labels do not fit the values.
    """

    title: str
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    values: Tensor
    unit: str = "weight"

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != (len(self.rows), len(self.columns)):
            raise ValueError(
                f"{self.title}: {len(self.rows)} rows and {len(self.columns)} columns are named, the values are "
                f"{tuple(self.values.shape)}"
            )


@dataclass(frozen=True)
class Maps:
    """Weights of one pair, in one picture.

    Attributes:
        name: of the picture, a part of its file's name.
        panels: from top to bottom.
    """

    name: str
    panels: tuple[Weights, ...]


@dataclass(frozen=True)
class Parts:
    """A few numbers of one pair, the same for every pair, whose distribution over matching pairs tells something.

    Attributes:
        name: of the picture.
        unit: of the numbers.
        names: of C parts.
        series: one or several ways to give each part a number, (C,) each.
    """

    name: str
    unit: str
    names: tuple[str, ...]
    series: Mapping[str, Tensor]


@dataclass(frozen=True)
class Clouds:
    """Vectors of one pair, shown in two dimensions among those of other matching pairs.

    Attributes:
        name: of the picture.
        vectors: by what they are of, (n, D) each.
    """

    name: str
    vectors: Mapping[str, Tensor]


View = Maps | Parts | Clouds


def words_of(text: TextInput) -> tuple[Word, ...]:
    """The tokens of one caption between its start and its end.

    >>> import torch
    >>> one = torch.zeros(1, dtype=torch.int64)
    >>> words_of(TextInput(torch.zeros(1, 6).long(), torch.arange(6)[None] < 4, one, one))
    (Word(tokens=(1,), prefix=''), Word(tokens=(2,), prefix=''))
    """
    return tuple(Word((place,)) for place in range(1, int(text.token_mask[0].sum()) - 1))


def nodes_of(text: TextInput, count: int) -> tuple[Word, ...]:
    """The first `count` textual nodes of one caption, each with its pieces."""
    nodes = text.word[0].tolist()
    return tuple(Word(tuple(i for i, node in enumerate(nodes) if node == number)) for number in range(count))


def frames_of(video: VideoInput) -> tuple[Frame, ...]:
    """The frames of one video that exist."""
    return tuple(Frame(place) for place in video.frame_mask[0].nonzero()[:, 0].tolist())


def over_frames(video: VideoInput, similarities: Tensor) -> Maps:
    """The picture of a caption's similarity with each frame, (n,)."""
    values = similarities[video.frame_mask[0]][None]
    return Maps("similarity", (Weights("caption and frame", ("similarity",), frames_of(video), values, "cosine"),))
