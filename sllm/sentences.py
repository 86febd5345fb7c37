"""What passes between the parts of an SLLM: its outputs, its sentences on their way.

B texts or windows, S sentences of one, T tokens of a sentence, N real sentences (all texts' flattened), D width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmbase.modeling.labels import SentenceModelOutput
from lmbase.text.padding import as_mask
from sentencevae.decoder import SentenceTargets
from sentencevae.grouping import PackedTokens


@dataclass
class SLLMOutput(SentenceModelOutput):
    """
    Args:
        states: (B, S+1, D) trunk states; state k predicts sentence k+1. First, where pipelines look for the features of
            a text.
        loss: () mean training loss per target token.
        losses: named sums in nats: `token` and `stop`, with drafting heads also `drafts`, their sum, and its parts
            `head_2` .. `head_n`, with transitions `after_2` .. `after_n` (a head's token, the one before it
            known); `loss_counts` has what each is divided by. Where vectors are drawn: `sllm.vector_losses`.
        correct: () target tokens that were the most probable token.
        stop_logits: (B, S+1) log-odds that the text stops after k sentences.
    """

    states: Tensor | None = None
    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None
    stop_logits: Tensor | None = None


def check_sentences(input_ids: Tensor, attention_mask: Tensor | None, sentence_mask: Tensor) -> None:
    """Raise ValueError unless the masks are those of sentences (B, S, T), each of a token or more: sentences that a
    mask does not reach would be passed over, and an empty one has a loss without end."""
    if input_ids.dim() != 3 or attention_mask is None or sentence_mask.shape != input_ids.shape[:2]:
        raise ValueError(
            f"input_ids {tuple(input_ids.shape)} and sentence_mask {tuple(sentence_mask.shape)}: give (B, S, T) ids "
            "and attention_mask and a (B, S) sentence_mask, as the model's processor makes them; or flat ids alone."
        )
    if torch.compiler.is_compiling():
        return
    empty = as_mask(sentence_mask, "sentence_mask") & ~attention_mask.bool().any(-1)
    if empty.any():
        text, sentence = empty.nonzero()[0].tolist()
        raise ValueError(
            f"Sentence {sentence} of text {text} has no tokens, and sentence_mask counts it: set it to 0 there, or "
            "attention_mask to 1 on its tokens."
        )


@dataclass
class TextNats:
    """-log p of everything that an SLLM predicts of B texts; 0 where there is nothing to predict."""

    token: Tensor  # (B, S, T+1) tokens of each sentence and its end mark
    stop: Tensor  # (B, S+1) the flag after k sentences


@dataclass
class Sentences:
    """N real sentences of a batch, read, and where they stand: P = N places in its texts, or more in windows of them
    that overlap."""

    rows: Tensor  # (P,) text or window
    places: Tensor  # (P,) number in it, from 0
    numbers: Tensor  # (P,) which of the N sentences stands there
    ids: Tensor  # (N, T)
    mask: Tensor  # (N, T)
    tokens: PackedTokens
    starts: Tensor  # (N,) tokens of the batch before each sentence, padding not counted
    pooled: Tensor  # (N, D) what vectors are made of
    embeds: Tensor  # (N, D)
    token_states: Tensor  # (L, D) of the encoder, for all L tokens of the batch one after another
    closed: Tensor | None = None  # (B,) texts whose decoder sees no tokens of sentences before its own


@dataclass
class Decoded:
    """Some sentences (n,), decoded with their true tokens."""

    index: Tensor  # (n,) which of the P places; those after the first `num_real` are repeated and predict nothing
    num_real: int
    states: Tensor  # (n, T+1, D) of the decoder before its last norm
    hidden: Tensor  # (n, T+1, D) after it
    cut: SentenceTargets
    vectors: Tensor  # (n, D) what the decoder reads as sentence vectors


def place_in_windows(sentences: Sentences, sentence_mask: Tensor, windows: Tensor) -> tuple[Sentences, Tensor]:
    """The same sentences standing in windows (B',3), rows (text, start, stop), and the windows' sentence mask
    (B',S')."""
    text, start, stop = windows.unbind(1)
    counts = sentence_mask.sum(1)  # (B,)
    first = (counts.cumsum(0) - counts)[text] + start  # (B',) number of each window's first sentence
    width = max(1, int((stop - start).max()))
    mask = torch.arange(width, device=windows.device) < (stop - start)[:, None]  # (B',S')
    rows, places = mask.nonzero(as_tuple=True)
    return replace(sentences, rows=rows, places=places, numbers=first[rows] + places), mask


def cut_windows(
    input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor, windows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows (B',3), rows (text, start, stop), as texts of their own: ids, mask (B',S',T), sentence mask (B',S')."""
    text, start, stop = windows.unbind(1)
    place = torch.arange(max(1, int((stop - start).max())), device=windows.device)  # (S',)
    mask = place < (stop - start)[:, None]  # (B',S')
    at = text[:, None], (start[:, None] + place).clamp(max=sentence_mask.shape[1] - 1)
    return input_ids[at], attention_mask[at] & mask[..., None], mask & sentence_mask[at]
