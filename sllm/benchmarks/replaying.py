"""Wall clock of writing at sizes whose trained weights are not at hand: random weights, replayed sentences and drafts.

Weights do not change how long a step takes, only what it says. So everything is computed as ever, and then the
decoder's choices are replaced: sentences end after given numbers of tokens, and of each draft as many tokens are
accepted as a trained model accepted. The step that predicts an end mark is run and not counted.

B texts, R rows of a pass, k drafting heads, V vocabulary.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from lmbase.modeling.devices import moved
from lmbase.modeling.inference import inference_method
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.measuring import NUM_RANKS, accepted_counts
from multitoken.benchmarks.replaying import FIRST_WORD, Acceptance, ReplayedLoop
from multitoken.draft_loop import DraftLoop, Stretch
from multitoken.draft_tree import DraftTree
from multitoken.transitions import best_candidates
from sllm.assistant import SentenceAssistant
from sllm.configuration_sllm import SLLMConfig
from sllm.loading import load_model
from sllm.sllm import SLLM

TREES = (4, 8)  # draft tokens of the trees that are tried
NUM_PROMPTS, PROMPT_CHARACTERS = 16, 1000  # of the texts after which a trained SLLM's drafts are counted


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


# -- what a trained model accepts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedDrafts:
    """What a trained SLLM with drafting heads accepts of its draft tokens."""

    name: str
    config: SLLMConfig
    ways: list[Acceptance]


def trained_drafts(spec: str, texts: Sequence[str], num_new_tokens: int, device: str) -> TrainedDrafts:
    """Of the SLLM that `spec` names, after the openings of the first texts.

    Raises:
        ValueError: no SLLM with drafting heads, or fewer than two texts.
    """
    loaded = load_model(spec)
    if not loaded.by_sentence or not loaded.model.draft_heads:
        raise ValueError(
            f"drafts_from={spec!r}: an SLLM with drafting heads is needed, as "
            "`sllm finetune-sllm --model RUN --num_future_tokens 3 --train_draft_heads_only true` makes one."
        )
    prompts = [text[:PROMPT_CHARACTERS] for text in texts[:NUM_PROMPTS]]
    model = moved(loaded.model, device)
    return TrainedDrafts(f"drafts of {loaded.name}", model.config, measured_acceptance(model, prompts, num_new_tokens))


def measured_acceptance(model: SLLM, prompts: Sequence[str], num_new_tokens: int) -> list[Acceptance]:
    """Accepted draft tokens of a trained model that writes greedily after these texts: with chains of 1, 2 .. tokens,
    and with the trees of 4 and 8 tokens that accept most after every other text; the rest say how many they accept."""
    if len(prompts) < 2:
        raise ValueError(f"{len(prompts)} texts to count accepted draft tokens on: at least two are needed.")
    n = model.config.num_future_tokens
    fixed: dict = dict(max_new_tokens=num_new_tokens, min_new_tokens=num_new_tokens)
    written = [(model.generate(text=text, **fixed).texts or [""])[0] for text in prompts]
    rates = candidate_rates(model, [text + new for text, new in zip(prompts, written, strict=True)][::2])
    ways = [Acceptance(f"{k} heads", k, []) for k in range(2, n + 1)]
    for num_drafts in TREES:
        tree = DraftTree.from_acceptance(rates, num_drafts)
        ways.append(Acceptance(f"tree of {num_drafts}", tree.depth + 1, [], tree))
    for way in ways:
        for text in prompts[1::2]:
            output = model.generate(text=text, num_draft=way.num_draft, tree=way.tree, **fixed)
            assert output.statistics is not None
            for count, times in enumerate(accepted_counts(output.statistics)):
                way.counts.extend([count] * times)
        random.Random(way.way).shuffle(way.counts)
    return ways


@inference_method
def candidate_rates(model: SLLM, texts: Sequence[str], num_ranks: int = NUM_RANKS) -> list[list[float]]:
    """How often a token of these texts is candidate of rank r of drafting head j, at [j - 2][r]."""
    num_ranks = min(num_ranks, model.config.vocab_size)
    hits, counts = torch.zeros(len(model.draft_heads), num_ranks), [0] * len(model.draft_heads)
    table = model.get_input_embeddings().weight
    for text in texts:
        ids = model.processor.encode(text).sentences()[-model.config.max_sentences :]
        padded = vars(pad_sentences([ids], model.config.pad_token_id))
        batch = {key: value.to(model.device) for key, value in padded.items()}
        sentences = model.read(**batch)
        states = model.trunk_states(sentences, batch["sentence_mask"])
        memory = model.memory_of_heads(sentences, states)
        for decoded in model.decode(sentences, states):
            for j, (hidden, targets, before) in enumerate(model.look_ahead(decoded, sentences, states, memory)):
                best = best_candidates(
                    model.draft_transitions, j, table[before], hidden, hidden @ table.T, table, num_ranks
                )
                hits[j] += (best == targets[:, None]).sum(0).cpu()
                counts[j] += len(targets)
    return [(of_head / max(count, 1)).tolist() for of_head, count in zip(hits, counts, strict=True)]
