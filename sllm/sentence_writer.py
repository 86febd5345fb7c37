"""Writing one sentence of each text: token by token, or draft and verify with further heads on the decoder.

B texts, R rows of a pass (the newest token and guesses after it), T tokens of a sentence, D width, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmbase.cache import RowCache
from lmbase.collate import pad_tokens
from lmbase.decoding import Sampler
from multitoken.speculation import DraftLength, DraftTree, SpeculationStatistics, verify
from sentencevae.modeling_sentencevae import DecoderState
from sllm.stepwise_sllm import ReadingState

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM


@dataclass
class Sentence:
    """A sentence while it is being written."""

    ids: list[int]  # tokens so far; those that a prompt forces come first
    room: int  # new tokens that may be added before the text's limit
    new: list[int] = field(default_factory=list)
    writing: bool = True
    closed: bool = False  # ended by its mark or by the longest length


class SentenceWriter:
    """Writes sentences for the texts of one call; remembers what drafting brings from one to the next."""

    def __init__(self, model: "SLLM", num_texts: int, sampler: Sampler, num_draft: int, automatic: bool):
        self.model, self.sampler = model, sampler
        self.num_chosen = [0] * num_texts  # tokens and end marks of each text: where its next draw stands
        self.most_drafts = num_draft - 1
        self.chains = [DraftTree.chain(depth) for depth in range(num_draft)]
        self.length = DraftLength(self.most_drafts) if automatic else None
        self.statistics = SpeculationStatistics()

    def write(self, state: ReadingState, sentences: Sequence[Sentence]) -> None:
        """Write on until no sentence is `writing`. Those that are not from the start are left alone."""
        self.sentences = sentences
        self.written = self.model.start_writing(state)
        self.read = state
        self.ahead: DecoderState | None = None  # of the drafting heads, from the first draft on
        self.unread: list[list[Tensor]] = [[] for _ in sentences]  # (r, D) of the decoder, what they have yet to read
        self.guesses: list[list[int]] = [[] for _ in sentences]  # equally many tokens after each sentence's newest
        self._open()
        while any(sentence.writing for sentence in sentences):
            self._pass()
        if self.length is not None:
            self.statistics.break_even = self.length.break_even

    # -- passes --------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Read the start token and what the prompt forces, all at once; choose the token after it."""
        model, bos = self.model, self.model.config.bos_token_id
        rows = [[bos, *sentence.ids] for sentence in self.sentences]
        for sentence in self.sentences:
            if len(sentence.ids) >= model.config.max_sentence_tokens:
                sentence.writing, sentence.closed = False, True
        ids, _ = pad_tokens(rows, model.config.pad_token_id)
        states = model.autoencoder.decoder.read(self._embed(ids), self.written)  # (B,R,D)
        ahead = self._look_ahead(states, self._wanted())
        last = [len(row) - 1 for row in rows]
        own, others = (x[range(len(rows)), last][:, None] for x in (states, ahead))  # (B,1,D), (B,1,k,D)
        chosen, drafts = self._choose(own, others, [[[]] for _ in rows])
        self._keep(states, ahead, [range(len(row)) for row in rows])
        for b in range(len(rows)):
            self._append(b, chosen[b])
        self._guess(drafts[:, 0])

    def _pass(self) -> None:
        """Read the newest token and the guesses after it, keep what the decoder itself would have written, and guess
        what follows: choices and new guesses are read off the same product with the vocabulary."""
        began = time.perf_counter()
        wanted = self._wanted()
        alive = [sentence for sentence in self.sentences if sentence.writing]
        longest = self.model.config.max_sentence_tokens
        room = max(min(longest - len(sentence.ids), sentence.room - len(sentence.new)) for sentence in alive)
        tree = self.chains[min(len(self.guesses[0]), room - 1)]
        num_ahead = max(min(wanted, room - 2), 0)
        newest = [sentence.ids[-1] if sentence.ids else 0 for sentence in self.sentences]
        rows = [[token, *guesses[: tree.depth]] for token, guesses in zip(newest, self.guesses, strict=True)]
        states = self.model.autoencoder.decoder.read(self._embed(torch.tensor(rows)), self.written)
        ahead = self._look_ahead(states, num_ahead)
        chosen, drafts = self._choose(states, ahead, [[row[1 : r + 1] for r in range(len(row))] for row in rows])
        kept: list[Sequence[int]] = []
        accepted = 0
        for b, (sentence, row) in enumerate(zip(self.sentences, rows, strict=True)):
            path = verify(tree, row, chosen[b]) if sentence.writing else []
            kept.append(path)
            if path:
                num_tokens = self._append(b, [*(row[r] for r in path[1:]), chosen[b][path[-1]]])
                self.statistics.add(tree.depth, len(path) - 1, num_tokens)
                accepted += len(path) - 1
        self._keep(states, ahead, kept)
        self._guess(drafts[range(len(kept)), [path[-1] if path else 0 for path in kept]])
        if self.length is not None and tree.depth == num_ahead == wanted:
            self.length.record(wanted, accepted / len(alive), time.perf_counter() - began)

    def _wanted(self) -> int:
        return self.most_drafts if self.length is None else self.length.choose()

    def _keep(self, states: Tensor, ahead: Tensor, rows: list[Sequence[int]]) -> None:
        """Of the rows just read those that stand; heads that have not read them will, before their next guess."""
        self.written.cache.keep(rows)
        if ahead.shape[2]:
            assert self.ahead is not None
            self.ahead.cache.keep(rows)
        elif self.most_drafts:
            for b, kept in enumerate(rows):
                self.unread[b].append(states[b, list(kept)])

    def _append(self, b: int, tokens: list[int]) -> int:
        """Add chosen tokens as far as sentence b goes; returns how many, its end mark among them."""
        sentence, config = self.sentences[b], self.model.config
        before = self.num_chosen[b]
        for token in tokens:
            if not sentence.writing:
                break
            self.num_chosen[b] += 1
            if token == config.eos_token_id:
                sentence.writing, sentence.closed = False, True
                break
            sentence.ids.append(token)
            sentence.new.append(token)
            sentence.closed = len(sentence.ids) >= config.max_sentence_tokens
            sentence.writing = not sentence.closed and len(sentence.new) < sentence.room
        self.sampler.forget(b, self.num_chosen[b])
        return self.num_chosen[b] - before

    def _choose(self, states: Tensor, ahead: Tensor, guesses: list[list[list[int]]]) -> tuple[list[list[int]], Tensor]:
        """The decoder's choice after each row (B, R), and the logits (B, R, k, V) of k drafting heads there.

        Args:
            states, ahead: (B, R, D) of the decoder and (B, R, k, D) of drafting heads, before the last norm.
            guesses: (B, R) what is guessed between a sentence's newest token and each row's choice.
        """
        model = self.model
        b, r = states.shape[:2]
        hidden = model.autoencoder.decoder.norm(torch.cat([states[:, :, None], ahead], dim=2))  # (B,R,1+k,D)
        every = hidden @ model.autoencoder.embed_tokens.weight.T  # (B,R,1+k,V)
        logits = every[:, :, 0].flatten(0, 1)  # (B*R,V)
        empty = [not (s.ids or between) for s, row in zip(self.sentences, guesses, strict=True) for between in row]
        if any(empty):  # no sentence is without a token
            logits[torch.tensor(empty, device=logits.device), model.config.eos_token_id] = -torch.inf
        logits = self.sampler.process(logits, lambda row: self.sentences[row // r].ids + guesses[row // r][row % r])
        places = [(i, self.num_chosen[i] + len(between)) for i in range(b) for between in guesses[i]]
        return self.sampler.choose(logits, places).view(b, r).tolist(), every[:, :, 1:]

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.autoencoder.embed_tokens(ids.to(self.model.device))

    # -- guesses -------------------------------------------------------------------------------------------------------

    def _look_ahead(self, states: Tensor, num_heads: int) -> Tensor:
        """States (B, R, k, D) of the first k drafting heads at the rows (B, R, D) that the decoder has just read."""
        if num_heads == 0:
            return states.new_empty(*states.shape[:2], 0, states.shape[2])
        model = self.model
        if self.ahead is None:
            cache = RowCache(len(self.sentences), self.written.cache.capacity, model.device)
            memories = model.memories_of(model.draft_heads, self.read)
            self.ahead = DecoderState(cache, self.written.sentence_embeds, memories)
        if any(self.unread):
            filled = [torch.cat(unread) if unread else states.new_empty(0, states.shape[2]) for unread in self.unread]
            model.draft_states(torch.nn.utils.rnn.pad_sequence(filled, batch_first=True), self.ahead)
            self.ahead.cache.keep([range(len(x)) for x in filled])
            self.unread = [[] for _ in filled]
        # All heads read on, so that a longer draft later finds their keys and values.
        return torch.stack(model.draft_states(states, self.ahead)[:num_heads], dim=2)

    def _guess(self, logits: Tensor) -> None:
        """Choose the tokens after each sentence's newest from logits (B, k, V)."""
        b, k = logits.shape[:2]
        places = [(i, self.num_chosen[i] + d) for i in range(b) for d in range(k)]
        chosen = self.sampler.choose(logits.flatten(0, 1), places).view(b, k).tolist() if k else [[]] * b
        self.guesses = chosen
