"""Wall clock of writing at sizes whose trained weights are not at hand: random weights, replayed sentences and drafts.

Weights do not change how long a step takes, only what it says. So everything is computed as ever, and then the
decoder's choices are replaced: sentences end after given numbers of tokens, and of each draft as many tokens are
accepted as a trained model accepted. The step that predicts an end mark is run and not counted.

B texts, R rows of a pass.
"""

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor
from transformers import LogitsProcessorList

from multitoken.benchmarks.replaying import FIRST_WORD, ReplayedLoop
from multitoken.draft_loop import DraftLoop, Stretch
from sllm.assistant import SentenceAssistant
from sllm.sllm import SLLM


class ReplayedSLLM(SLLM):
    """An SLLM with random weights: its sentences are as long, and as many draft tokens accepted, as it is told."""

    _lengths: Sequence[int] = (8,)
    _counts: Iterator[int] = itertools.repeat(0)

    def replay(self, lengths: Sequence[int], counts: Iterator[int]) -> None:
        """Each later call of `generate` writes sentences of these lengths, one of each text after another, over and
        over, and accepts as many tokens of each draft as `counts` says, which goes on from call to call."""
        self._lengths, self._counts = lengths, counts

    def draft_loop(self, *args) -> DraftLoop:
        return ReplayedSentences(self._lengths, self._counts, *args)


class ReplayedSentences(ReplayedLoop):
    """Ends sentences after given numbers of tokens, too."""

    def __init__(self, lengths: Sequence[int], counts: Iterator[int], *args):
        super().__init__(counts, *args)
        self.lengths = itertools.cycle(lengths)

    def run(self, stretches: Sequence[Stretch]) -> Iterator[None]:
        self.wanted = [min(next(self.lengths), self.reader.longest) for _ in stretches]
        return super().run(stretches)

    def replayed(self, b: int, between: list[list[int]], chosen: list[int]) -> list[int]:
        wanted, length = self.wanted[self.texts[b]], len(self.stretches[b].ids)
        chosen = super().replayed(b, between, [FIRST_WORD])  # without a draft, too, no sentence ends before its time
        return [
            self.reader.end if length + len(path) == wanted else token
            for token, path in zip(chosen, between, strict=True)
        ]


class ReplayedAssistant(SentenceAssistant):
    """An assistant of a model with random weights: the text goes on as it is told to, and so do accepted drafts.

    Args:
        text: ids of the prompt and of what is written after it.
        counts: draft tokens accepted in each pass, without end; fewer where fewer were made.
    """

    def __init__(self, sllm: SLLM, num_tokens: int, text: Sequence[int], counts: Iterator[int]):
        super().__init__(sllm, num_tokens)
        self._text, self._counts = list(text), counts

    def _verified(
        self, logits: Tensor, ids: Tensor, guesses: list[int], processors: LogitsProcessorList, do_sample: bool
    ) -> list[int]:
        count, before = min(next(self._counts), len(guesses)), ids.shape[1] - len(guesses)
        for r in range(count + 1):  # choosing each of them costs what it costs
            super()._verified(logits[:, r : r + 1], ids[:, : before + r], [], processors, do_sample)
        return self._text[before : before + count + 1]
