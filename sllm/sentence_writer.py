"""Writing one sentence of each text: token by token, or draft and verify. Drafts are made by further heads on the
decoder or copied out of the text.

B texts, R rows of a pass (the newest token and drafts after it), T tokens of a sentence, k drafting heads, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from lmbase.modeling.cache import RowCache
from lmbase.modeling.decoding import Origins, Sampler, Seed
from lmbase.modeling.endings import Endings
from lmbase.modeling.settings import check_number
from multitoken.draft_loop import Drafting, Read, Stretch
from multitoken.draft_tree import DraftTree
from multitoken.transitions import Ahead, Guessers
from sentencevae.decoder import DecoderState
from sentencevae.layers import TreeMask, select_memories
from sllm import reading
from sllm.compiled_steps import CompiledSteps
from sllm.modeling_sllm import SLLMModel
from sllm.own_row_steps import OwnRowSteps
from sllm.reading import AnyState, AnyWriting

AnySteps = CompiledSteps | OwnRowSteps | None


def open_steps(
    model: SLLMModel, config: GenerationConfig, num_texts: int, num_rows: int, num_tokens: int, num_sentences: int
) -> AnySteps:
    """What a call that wants caches of fixed size reads and writes with, see `CompiledSteps`; None: as without.

    Raises:
        ValueError: attention that takes no mask, a graft by own layers on another device than a CPU.
    """
    if model.own is None:
        return CompiledSteps(model, config, num_texts, num_rows, num_tokens, num_sentences)
    if model.device.type != "cpu":
        raise ValueError(
            f"cache_implementation='static': a graft by own layers has compiled steps on CPUs, none on {model.device}; "
            "leave it out (and --compile)."
        )
    return OwnRowSteps(model, config, num_tokens, num_sentences) if num_texts == 1 else None


@dataclass
class VectorDraws:
    """How the vectors of one call's sentences are drawn, by a model whose head draws them."""

    origins: Origins
    temperature: float
    number: int = 0  # of the next sentence

    @classmethod
    def of(cls, model: SLLMModel, seed: Seed, temperature: float | None) -> "VectorDraws | None":
        """Those of a call; None where no head draws.

        Raises:
            ValueError: a temperature for such a model, or one out of range.
        """
        if model.draws_vectors:
            given = model.config.vector_temperature if temperature is None else temperature
            return cls(Origins(seed), check_number("vector_temperature", given))
        if temperature is not None:
            raise ValueError(
                f"vector_temperature={temperature!r}: this model's next_vector is {model.config.next_vector!r}, which "
                "draws no vectors; temperature is that of tokens."
            )
        return None

    def draw(self, model: SLLMModel, state: AnyState, begun: Sequence[list[int]]) -> None:
        """Draw those of the next sentences, some of which a prompt has begun."""
        keys = self.origins.keys(len(state.states), self.number).to(state.states.device)
        reading.draw_vectors(model, state, keys, self.temperature, begun)
        self.number += 1


class SentenceReader:
    """Reads the sentences that are being written, with the decoder and its drafting heads.

    Args:
        drafts: the largest draft that heads make.
        steps: what runs the passes whose shapes recur; by default they run as they are written.
        greedy: the likeliest is chosen, so that a sure end needs no rivals.
    """

    framed = True

    def __init__(self, model: SLLMModel, drafts: DraftTree, steps: AnySteps = None, greedy: bool = False):
        config = model.config
        self.model, self.greedy = model, greedy
        self.row_steps = steps if isinstance(steps, OwnRowSteps) else None
        self.steps = steps if isinstance(steps, CompiledSteps) else None
        self.end, self.opening, self.pad = config.eos_token_id, config.bos_token_id, config.pad_token_id
        self.longest = config.max_sentence_tokens
        self.fixed = self.steps is not None
        self.drafting = model.draft_heads[: drafts.pruned(max(self.longest - 3, 0)).depth]

    def begin(self, state: AnyState) -> None:
        """Begin the next sentence of each text that was read."""
        self.state = state
        self.written: AnyWriting = (
            reading.start_sentence(self.model, state) if self.steps is None else self.steps.start_sentence(state)
        )
        self.texts = list(range(len(state.states)))
        self.ahead: DecoderState | None = None  # of the drafting heads, from the first draft on
        self.unread: list[list[Tensor]] = [[] for _ in self.texts]  # (r, D) of the decoder, what they have yet to read

    def read(
        self, ids: Tensor, tree: DraftTree | None, num_heads: int, last: Sequence[int] | None, recurs: bool
    ) -> Read:
        model, mask = self.model, self._tree_mask(tree)
        early = self.greedy and last is None  # no sentence ends before its first token
        if self.row_steps is not None and ids.shape == (1, 1) and not num_heads:
            states, hidden, logits = self.row_steps.write_row(ids, self.written, early)
            return Read(hidden, logits, num_heads, states)
        if self.steps is not None and recurs and not (model.heads_attend and num_heads):
            states, hidden, logits = self.steps.write_rows(ids.to(model.device), self.written, mask, num_heads)
            return Read(hidden, logits, num_heads, states)
        states = every = reading.write_rows(model, ids.to(model.device), self.written, mask)  # (B,R,D)
        ahead = self._look_ahead(states, num_heads, mask)  # (B,R,k,D)
        if last is not None:
            states, ahead = (x[range(len(ids)), last][:, None] for x in (states, ahead))
        return Read(*reading.lm_logits(model, states, ahead.unbind(2), early), num_heads, every)

    def keep(self, read: Read, rows: Sequence[Sequence[int]]) -> None:
        """Of the rows just read those that stand; heads that have not read them will, before their next draft."""
        self.written.keep(rows)
        if not self.model.heads_attend:
            return
        if read.num_heads:
            assert self.ahead is not None
            self.ahead.cache.keep(rows)
        elif self.drafting:
            for b, kept in enumerate(rows):
                self.unread[b].append(read.states[b, list(kept)])

    def select(self, texts: Sequence[int]) -> None:
        self.written.select(texts)
        if self.ahead is not None:
            self.ahead.select(texts)
        self.texts = [self.texts[b] for b in texts]
        self.unread = [self.unread[b] for b in texts]

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids.to(self.model.device))

    def guessers(self, num_heads: int) -> Guessers:
        tables = [self.model.output_table] * num_heads
        return Guessers(self.model.draft_transitions, self.embed, tables)

    def fast_draft(self, tree: DraftTree, newest: Sequence[int], heads: Ahead) -> Tensor | None:
        if self.steps is None or not self.model.draft_transitions:
            return None
        return self.steps.draft(tree, newest, heads)

    def _tree_mask(self, tree: DraftTree | None) -> TreeMask | None:
        if tree is None or len(tree.nodes) == tree.depth + 1:  # a chain
            return None
        depths = torch.tensor([len(path) for path in tree.nodes], device=self.model.device)
        return TreeMask(tree.visible.to(self.model.device), depths)

    def _look_ahead(self, states: Tensor, num_heads: int, mask: TreeMask | None) -> Tensor:
        """States (B, R, k, D) of the first k drafting heads at the rows (B, R, D) that the decoder has just read."""
        if num_heads == 0:
            return states.new_empty(*states.shape[:2], 0, states.shape[2])
        model = self.model
        if not model.heads_attend:
            return torch.stack([head(states) for head in self.drafting[:num_heads]], dim=2)
        if self.ahead is None:
            cache = RowCache(len(self.texts), self.written.cache.capacity, model.device)
            memories = reading.memories_of(model, self.drafting, self.state)
            memories = select_memories(memories, torch.tensor(self.texts, device=model.device))
            self.ahead = DecoderState(cache, self.written.sentence_embeds, memories)
        if any(self.unread):
            filled = [torch.cat(unread) if unread else states.new_empty(0, states.shape[2]) for unread in self.unread]
            x = torch.nn.utils.rnn.pad_sequence(filled, batch_first=True)
            reading.draft_states(model, self.drafting, x, self.ahead)
            self.ahead.cache.keep([range(len(x)) for x in filled])
            self.unread = [[] for _ in filled]
        # All that may draft read on, so that a longer draft later finds their keys and values.
        return torch.stack(reading.draft_states(model, self.drafting, states, self.ahead, mask)[:num_heads], dim=2)


class SentenceWriter:
    """Writes sentences for the texts of one call; remembers what drafting brings from one to the next.

    Args:
        endings: what ends a text beside end marks.
        steps: compiled ones, if they are wanted.
        draws: of a model whose head draws sentence vectors.

    Attributes:
        after_pass: called with the sentences after each pass.
    """

    def __init__(
        self,
        model: SLLMModel,
        num_texts: int,
        sampler: Sampler,
        drafting: Drafting,
        endings: Endings | None = None,
        steps: AnySteps = None,
        draws: VectorDraws | None = None,
    ):
        self.steps, self.draws = steps, draws
        self.state: AnyState | None = None  # what was read of the texts
        drafts = DraftTree.chain(0) if drafting.lookups else drafting.tree
        self.reader = SentenceReader(model, drafts, steps, sampler.takes_largest)
        self.loop = model.draft_loop(self.reader, num_texts, sampler, drafting, endings)
        self.after_pass: Callable[[Sequence[Stretch]], None] | None = None

    def write(self, state: AnyState, sentences: Sequence[Stretch]) -> None:
        """Write on until no sentence is `writing`. Those that are not from the start are left alone."""
        if self.draws is not None:
            self.draws.draw(self.reader.model, state, [sentence.ids for sentence in sentences])
        self.reader.begin(state)
        for _ in self.loop.run(sentences):
            if self.after_pass is not None:
                self.after_pass(sentences)
