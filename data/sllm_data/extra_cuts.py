"""A curriculum of sentence length: in training, sentences are cut further between their tokens, all the way at first
and less and less as the run goes on. A window's tokens stay what they are; only the number of its sentences changes.

B windows, S sentences of one, T tokens of a sentence; L tokens of the longest window, S' and T' sizes after cutting.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmbase.modeling.noise import mixed, uniform
from lmbase.training.batches import Batch


@dataclass(frozen=True)
class ExtraCuts:
    """
    Args:
        fading: share of a run over which the cuts fade, each gap's probability of one falling evenly from 1 to 0.
        kept: share of windows that are cut to the end of the run, with a probability that is drawn for each.
        most: sentences of a window; no more cuts are made than this leaves room for.
        cap: tokens of a sentence at most; one of so many ends by the cap, and no end is learnt there.
    """

    fading: float
    kept: float
    most: int
    cap: int

    def probability(self, progress: float) -> float:
        """That a gap inside a sentence becomes a cut, when so large a share of the run is over."""
        return max(0.0, 1 - progress / self.fading) if self.fading else 0.0

    @property
    def mean_probability(self) -> float:
        """Over a whole run and all windows, if there is room for all cuts."""
        # A kept window has the larger one of p, the probability of all, and u, which is uniform: (1 + p * p) / 2.
        return (1 - self.kept) * self.fading / 2 + self.kept * (1 / 2 + self.fading / 6)

    def __call__(self, batch: Batch, keys: Tensor, progress: float) -> Batch:
        """A batch of windows (`SentenceWindowDataset`) with further cuts. Whatever it has for each token moves along.

        Args:
            keys: (B,) decide what is drawn for each window, see `lmbase.modeling.noise`.

        Returns:
            the batch, with `cut_short` (B, S') where a sentence ends by a cut made here, or by the cap.
        """
        mask = batch["attention_mask"]  # (B,S,T)
        counts = mask.sum((1, 2))
        index = torch.arange(int(counts.max()))
        real = index < counts[:, None]  # (B,L)
        first = torch.zeros_like(mask)
        first[..., 0] = True
        begins = torch.zeros_like(real).masked_scatter(real, first[mask])
        full = (mask.sum(-1, keepdim=True) == self.cap).expand_as(mask)
        capped = torch.zeros_like(real).masked_scatter(real, full[mask])  # (B,L) of sentences that the cap ends
        draws = uniform(mixed(~keys), 2 + len(index))
        kept = draws[:, :1] < self.kept
        probability = torch.where(kept, draws[:, 1:2], 0.0).clamp(min=self.probability(progress))  # (B,1)
        gaps = draws[:, 2:].masked_fill(begins | ~real, 2.0)  # (B,L) of those between tokens of a sentence
        room = self.most - begins.sum(1, keepdim=True)
        cuts = (gaps < probability) & (gaps.argsort(1).argsort(1) < room)
        if not cuts.any():
            return batch
        begins |= cuts
        number = begins.cumsum(1) - 1  # (B,L) sentence that each token is in
        place = index - torch.where(begins, index, 0).cummax(1).values
        rows = torch.arange(len(mask))[:, None].expand_as(real)
        at = rows[real], number[real], place[real]
        shape = len(mask), int(number.max()) + 1, int(place[real].max()) + 1
        moved = {
            name: given.new_zeros(*shape, *given.shape[3:]).index_put(at, given[mask])
            for name, given in batch.items()
            if given.shape[:3] == mask.shape
        }
        short, yes = mask.new_zeros(shape[:2]), torch.ones(()).bool()
        short = short.index_put((rows[cuts], number[cuts] - 1), yes).index_put((rows[capped], number[capped]), yes)
        return batch | moved | {"sentence_mask": moved["attention_mask"][..., 0], "cut_short": short}
