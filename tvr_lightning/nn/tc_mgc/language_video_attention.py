"""Language-video attention: each text vector looks at a video's frames (X-Pool's block in TC-MGC).

For a query q (a sentence or a word) and the frames of a video:

    a     = softmax_frames(LN1(q) W_Q . (LN1(frames) W_K)^T / sqrt(d_p))
    z_hat = LN2((a . LN1(frames) W_V) W_O)
    z     = LN3(FC(z_hat) + z_hat)

where the paper has an equation each for sentences and for words, which share all weights.

What retrieval needs of z is its cosine with text vectors. `attend` computes z itself, T V q D numbers for all pairs;
`cosines` gives the same cosines without any vector of width D for a pair. Between the attention weights and the cosine
everything is affine or a layer norm, so z is a combination of n H + 2 vectors that belong to the video (n frames,
H heads), and means, variances and norms of combinations are quadratic forms in small Gram matrices:

    x        = sum_f a_f U_f                 U = LN1(frames) W_V W_O + b_O, per head
    LN2(x)   = gamma_2 (sum_f a_f C_f) / s_2 + beta_2        C = U - mean(U),  s_2^2 = a^T (C C^T / D) a + eps
    FC + id  = sum_f (a_f / s_2) P_f + P_0                   P_f = (W + I)(gamma_2 C_f),  P_0 = (W + I) beta_2 + b
    LN3      the same with the n H + 1 vectors P; beta_3 joins as the last vector

With one head the linear layers next to each other are one: W_Q^T W_K meets the frames, of which there are fewer than
queries, and W_O W_V is one matrix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.device import has_kernels
from tvr_lightning.nn.masked import masked_softmax


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class VideoBasis(NamedTuple):
    """Videos prepared for `LanguageVideoAttention.cosines`.

    Attributes:
        keys: (V, n, D), frames after LN1 and W_K; with one head after W_Q^T too, divided by sqrt(d_p).
        offsets: (V n, 1), what W_Q's bias adds to the logits of each frame where keys have met W_Q^T, else None.
        frame_mask: (V, n) bool.
        grams: C C^T / D (V, H n, H n), that of the P (one more row), that of `vectors` without the division.
        vectors: (V, H n + 2, D): z is a combination of them.

    >>> LanguageVideoAttention(width=8).basis(torch.randn(2, 4, 8), torch.ones(2, 4).bool()).vectors.shape
    torch.Size([2, 6, 8])
    """

    keys: Tensor
    offsets: Tensor | None
    frame_mask: Tensor
    grams: tuple[Tensor, Tensor, Tensor]
    vectors: Tensor


class PairCosines(NamedTuple):
    """Cosines of what queries see with text vectors, V videos, T texts of m words.

    Attributes:
        sentence_sentence: (V, T).
        sentence_words: (V, T, m), the sentence looks, words are compared.
        words_sentence: (V, T, m), words look, the sentence is compared.
        words_words: (V, T, m, m), the looking words first.

    >>> block, mask = LanguageVideoAttention(width=8), torch.ones(2, 4).bool()
    >>> found = block.text_cosines(torch.randn(3, 8), torch.randn(3, 5, 8), block.basis(torch.randn(2, 4, 8), mask))
    >>> found.words_words.shape
    torch.Size([2, 3, 5, 5])
    """

    sentence_sentence: Tensor
    sentence_words: Tensor
    words_sentence: Tensor
    words_words: Tensor


class LanguageVideoAttention(nn.Module):
    """Language-video attention with one set of weights for sentences and words.

    Projections and the fully connected layer start as the identity with zero bias; the formulas open this module.

    Args:
        width: D.
        heads: attention heads; D is a multiple.
        projections: whether W_Q, W_K, W_V and W_O exist; the code that TC-MGC's authors released skips them.
        residual: whether z_hat is added to the fully connected layer's output (TC-MGC Table 11).
        dropout: on the fully connected layer's output while training.

    Raises:
        ValueError: the heads do not divide the width.

    >>> block = LanguageVideoAttention(width=8)
    >>> words, frames, mask = torch.randn(3, 5, 8), torch.randn(2, 4, 8), torch.ones(2, 4).bool()
    >>> block.cosines(words, block.basis(frames, mask), others=words).shape
    torch.Size([2, 3, 5, 5])
    """

    def __init__(
        self, width: int, heads: int = 1, projections: bool = True, residual: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {width}")
        self.width, self.heads, self.residual = width, heads, residual
        self.norm_inputs, self.norm_attended, self.norm_output = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.output = (
            _identity(width) if projections else nn.Identity() for _ in range(4)
        )
        self.fc = _identity(width)
        self.dropout = nn.Dropout(dropout)

    def weights(self, queries: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Attention weights of every query over every video's frames.

        Shapes: queries (Q, D); frames (V, n, D); frame_mask (V, n); returns (V, H, n, Q), which sums to 1 over n and
        is 0 on padded frames.
        """
        return self._weights(queries, self.key(self.norm_inputs(frames)), frame_mask)  # Eq. 3

    def _weights(self, queries: Tensor, keys: Tensor, frame_mask: Tensor, offsets: Tensor | None = None) -> Tensor:
        (num_videos, count, _), size = keys.shape, self.width // self.heads
        normed = self.norm_inputs(queries)
        # frames before queries: what follows then runs along the longest dimension
        if offsets is None:
            # of sentences Eq. 2, of words Eq. 8
            q = self.query(normed).unflatten(-1, (self.heads, size)) / math.sqrt(size)  # (Q, H, d)
            k = keys.view(num_videos * count, self.heads, size)
            logits = torch.einsum("fhd,qhd->hfq", k, q)
        else:
            logits = torch.addmm(offsets, keys.flatten(0, 1), normed.T)[None]  # with W_Q of Eq. 2, Eq. 8; (1, V n, Q)
        logits = logits.unflatten(1, (num_videos, count)).transpose(0, 1)
        return masked_softmax(logits, frame_mask[:, None, :, None], dim=2)  # weights of Eq. 5, Eq. 9

    def _keys(self, normed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Keys and offsets of `VideoBasis`: frames after LN1 (V, n, D) -> (V, n, D), (V n, 1) or None."""
        if self.heads > 1 or not isinstance(self.query, nn.Linear) or not isinstance(self.key, nn.Linear):
            return self.key(normed), None  # Eq. 3
        query = torch.cat([self.query.weight, self.query.bias[:, None]], dim=1) / math.sqrt(self.width)  # (D, D + 1)
        both = F.linear(normed, query.T @ self.key.weight, self.key.bias @ query)  # Eq. 3 and W_Q; (V, n, D + 1)
        keys, offsets = both.split([self.width, 1], dim=-1)
        return keys, offsets.flatten(0, 1)

    def attend(self, queries: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """What each query sees of each video, literally: (Q, D), (V, n, D), (V, n) -> z (V, Q, D)."""
        normed = self.norm_inputs(frames)
        a = self._weights(queries, self.key(normed), frame_mask)  # Eq. 3, (V, H, n, Q)
        values = self.value(normed).unflatten(-1, (self.heads, -1))  # Eq. 4, (V, n, H, d)
        attended = torch.einsum("vhnq,vnhd->vqhd", a, values).flatten(2)  # Eq. 5, Eq. 9
        z_hat = self.norm_attended(self.output(attended))  # Eq. 6, Eq. 10
        z = self.dropout(self.fc(z_hat))
        return self.norm_output(z + z_hat if self.residual else z)  # Eq. 7, Eq. 11

    def literal_cosines(self, queries: Tensor, frames: Tensor, frame_mask: Tensor, others: Tensor) -> Tensor:
        """`cosines` through `attend`: T V q D numbers, and dropout where there is some."""
        z = self.attend(queries.flatten(0, 1), frames, frame_mask).unflatten(1, queries.shape[:2])  # (V, T, q, D)
        return F.normalize(z, dim=-1) @ F.normalize(others, dim=-1).mT  # Eq. 12, Eq. 13, Eq. 14, Eq. 15

    def basis(self, frames: Tensor, frame_mask: Tensor) -> VideoBasis:
        """What `cosines` needs of videos, for any number of texts: (V, n, D), (V, n) bool, at least one frame each."""
        num_videos = len(frames)
        normed = self.norm_inputs(frames)
        weight = self.fc.weight
        if self.residual:
            weight = weight + torch.eye(self.width, dtype=weight.dtype, device=weight.device)
        centred = _centre(self._values(normed))  # C (V, H n, D)
        combined = F.linear(centred * self.norm_attended.weight, weight)  # P (V, H n, D)
        constant = F.linear(self.norm_attended.bias, weight, self.fc.bias).expand(num_videos, 1, -1)
        moved = _centre(torch.cat([combined, constant], dim=1))  # (V, H n + 1, D)
        bias = self.norm_output.bias.expand(num_videos, 1, -1)
        vectors = torch.cat([moved * self.norm_output.weight, bias], dim=1)  # (V, H n + 2, D)
        grams = centred @ centred.mT / self.width, moved @ moved.mT / self.width, vectors @ vectors.mT
        return VideoBasis(*self._keys(normed), frame_mask, grams, vectors)

    def cosines(self, queries: Tensor, basis: VideoBasis, others: Tensor) -> Tensor:
        """Cosines between what queries see of a video and text vectors of the same caption.

        Exactly the cosines of `attend`'s output, in O(n) numbers a query instead of O(D). Dropout has no such form.

        Args:
            queries: (T, q, D).
            basis: of V videos.
            others: (T, p, D), any length.

        Returns:
            (V, T, q, p).

        Raises:
            ValueError: dropout is active.
        """
        self._refuse_dropout()
        num_texts, num_queries = queries.shape[:2]
        a = self._weights(queries.flatten(0, 1), basis.keys, basis.frame_mask, basis.offsets)  # (V, H, n, T q)
        a = a.flatten(1, 2)
        # a cosine does not see the length of z, so z is kept times s_2 s_3: no layer norm divides a large tensor
        # the layer norm of Eq. 6, Eq. 10
        second = (_quadratic(basis.grams[0], a) + self.norm_attended.eps).sqrt()  # s_2 (V, 1, T q)
        a = torch.cat([a, second], dim=1)
        variance = _quadratic(basis.grams[1], a)  # of s_2 z
        third = (variance + self.norm_output.eps * second.square()).sqrt()  # s_2 s_3, that of Eq. 7, Eq. 11
        a = torch.cat([a, third], dim=1)
        length = _quadratic(basis.grams[2], a).clamp(min=torch.finfo(a.dtype).tiny).sqrt()
        a = a / length

        products = F.linear(basis.vectors, F.normalize(others, dim=-1).flatten(0, 1))  # (V, H n + 2, T p)
        products = products.unflatten(2, (num_texts, -1)).permute(0, 2, 3, 1)  # (V, T, p, H n + 2)
        coefficients = a.unflatten(2, (num_texts, num_queries)).transpose(1, 2)  # (V, T, H n + 2, q)
        # queries lie next to each other: what then sorts along the others runs over long rows
        cosines: Tensor = (products @ coefficients).mT  # Eq. 12, Eq. 13, Eq. 14, Eq. 15
        return cosines

    def text_cosines(self, sentence: Tensor, words: Tensor, basis: VideoBasis) -> PairCosines:
        """`cosines` of a text's sentence and words, each as query and as vector that is compared.

        Shapes: sentence (T, D); words (T, m, D). On a GPU one kernel goes from products to cosines.

        Raises:
            ValueError: dropout is active.
        """
        count = words.shape[1]
        if basis.offsets is not None and has_kernels(words, basis.keys):
            from tvr_lightning.nn.kernels.cosines import MAX_FRAMES, MAX_WORDS, pair_cosines

            if basis.keys.shape[1] <= MAX_FRAMES and count <= MAX_WORDS:
                self._refuse_dropout()
                texts = torch.cat([sentence, words.flatten(0, 1)])
                sizes = [len(sentence), words.shape[:2].numel()]

                def of_both(vectors: Tensor, x: Tensor, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
                    flat = vectors.flatten(0, 1)
                    parts = [
                        flat @ part.T if offsets is None else torch.addmm(offsets, flat, part.T)
                        for part in x.split(sizes)
                    ]
                    first, second = (part.unflatten(0, vectors.shape[:2]) for part in parts)
                    return first, second.unflatten(2, words.shape[:2])

                logits = of_both(basis.keys, self.norm_inputs(texts), basis.offsets)
                products = of_both(basis.vectors, F.normalize(texts, dim=-1))
                eps = self.norm_attended.eps, self.norm_output.eps
                return PairCosines(*pair_cosines(logits, products, basis.frame_mask, basis.grams, eps))
        both = torch.cat([sentence[:, None], words], dim=1)
        cosines = self.cosines(both, basis, both)
        return PairCosines(cosines[:, :, 0, 0], cosines[:, :, 0, 1:], cosines[:, :, 1:, 0], cosines[:, :, 1:, 1:])

    def _refuse_dropout(self) -> None:
        if self.training and self.dropout.p > 0:
            raise ValueError("the low-rank form has no dropout: use `literal_cosines` while training with dropout")

    def _values(self, normed: Tensor) -> Tensor:
        """U: each frame's values through the output projection, head by head, (V, H n, D); a sum over heads has b_O."""
        num_videos, count, width = normed.shape
        if self.heads == 1 and isinstance(self.value, nn.Linear) and isinstance(self.output, nn.Linear):
            bias = F.linear(self.value.bias, self.output.weight, self.output.bias)
            return F.linear(normed, self.output.weight @ self.value.weight, bias)  # Eq. 4 and W_O
        values = self.value(normed)  # Eq. 4
        if self.heads == 1:
            return self.output(values)
        size = width // self.heads
        alone = values.new_zeros(num_videos, self.heads, count, width)
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            alone[:, head, :, part] = values[..., part]
        if isinstance(self.output, nn.Linear):
            alone = F.linear(alone, self.output.weight, self.output.bias / self.heads)
        flat: Tensor = alone.flatten(1, 2)
        return flat


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _quadratic(gram: Tensor, coefficients: Tensor) -> Tensor:
    """c^T G c: gram (V, r, r), coefficients (V, r, X) -> (V, 1, X)."""
    return ((gram @ coefficients) * coefficients).sum(1, keepdim=True).clamp(min=0)
