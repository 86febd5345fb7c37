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
        last = [len(row) - 1 for row in rows]
        chosen = self._choose(states[range(len(rows)), last][:, None], [[[]] for _ in rows])
        self.written.cache.keep([range(len(row)) for row in rows])
        for b, row in enumerate(rows):
            self._remember(b, states, range(len(row)))
            self._append(b, chosen[b])

    def _pass(self) -> None:
        """Guess, read the newest token and the guesses, keep what the decoder itself would have written."""
        began = time.perf_counter()
        wanted = self.most_drafts if self.length is None else self.length.choose()
        alive = [sentence for sentence in self.sentences if sentence.writing]
        longest = self.model.config.max_sentence_tokens
        room = max(min(longest - len(sentence.ids), sentence.room - len(sentence.new)) for sentence in alive)
        tree = self.chains[min(wanted, room - 1)]
        newest = [[sentence.ids[-1] if sentence.ids else 0] for sentence in self.sentences]
        drafts = self._draft(tree.depth) if tree.depth else [[] for _ in newest]
        rows = [root + guesses for root, guesses in zip(newest, drafts, strict=True)]
        states = self.model.autoencoder.decoder.read(self._embed(torch.tensor(rows)), self.written)
        chosen = self._choose(states, [[row[1 : r + 1] for r in range(len(row))] for row in rows])
        kept: list[Sequence[int]] = []
        accepted = 0
        for b, (sentence, row) in enumerate(zip(self.sentences, rows, strict=True)):
            path = verify(tree, row, chosen[b]) if sentence.writing else []
            kept.append(path)
            if path:
                self._remember(b, states, path)
                num_tokens = self._append(b, [*(row[r] for r in path[1:]), chosen[b][path[-1]]])
                self.statistics.add(tree.depth, len(path) - 1, num_tokens)
                accepted += len(path) - 1
        self.written.cache.keep(kept)
        if self.length is not None and tree.depth == wanted:
            self.length.record(tree.depth, accepted / len(alive), time.perf_counter() - began)

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

    def _choose(self, states: Tensor, guesses: list[list[list[int]]]) -> list[list[int]]:
        """The decoder's choice after each row (B, R).

        Args:
            states: (B, R, D) before the last norm.
            guesses: (B, R) what is guessed between a sentence's newest token and each row's choice.
        """
        model = self.model
        table = model.autoencoder.embed_tokens.weight
        b, r = states.shape[:2]
        logits = (model.autoencoder.decoder.norm(states) @ table.T).flatten(0, 1)  # (B*R,V)
        empty = [not (s.ids or between) for s, row in zip(self.sentences, guesses, strict=True) for between in row]
        if any(empty):  # no sentence is without a token
            logits[torch.tensor(empty, device=logits.device), model.config.eos_token_id] = -torch.inf
        logits = self.sampler.process(logits, lambda row: self.sentences[row // r].ids + guesses[row // r][row % r])
        places = [(i, self.num_chosen[i] + len(between)) for i in range(b) for between in guesses[i]]
        return self.sampler.choose(logits, places).view(b, r).tolist()

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.autoencoder.embed_tokens(ids.to(self.model.device))

    # -- guesses -------------------------------------------------------------------------------------------------------

    def _remember(self, b: int, states: Tensor, rows: Sequence[int]) -> None:
        if self.most_drafts:
            self.unread[b].append(states[b] if len(rows) == states.shape[1] else states[b, list(rows)])

    def _draft(self, depth: int) -> list[list[int]]:
        """`depth` guesses after each sentence's newest token."""
        model = self.model
        if self.ahead is None:
            cache = RowCache(len(self.sentences), self.written.cache.capacity, model.device)
            memories = model.memories_of(model.draft_heads, self.read)
            self.ahead = DecoderState(cache, self.written.sentence_embeds, memories)
        nothing = torch.zeros(1, model.config.hidden_size, dtype=model.dtype, device=model.device)
        counts = [sum(map(len, unread)) for unread in self.unread]
        filled = [torch.cat(unread) if unread else nothing for unread in self.unread]
        x = torch.nn.utils.rnn.pad_sequence(filled, batch_first=True)  # (B,P,D)
        states = model.draft_states(x, self.ahead)  # n - 1 of (B,P,D)
        rows, newest = torch.arange(len(counts), device=x.device), [max(count - 1, 0) for count in counts]
        hidden = torch.stack([s[rows, newest] for s in states[:depth]], dim=1)  # (B,depth,D)
        self.ahead.cache.keep([range(count) for count in counts])
        self.unread = [[] for _ in counts]
        logits = model.autoencoder.decoder.norm(hidden) @ model.autoencoder.embed_tokens.weight.T  # (B,depth,V)
        places = [(b, self.num_chosen[b] + d) for b in range(len(counts)) for d in range(depth)]
        return self.sampler.choose(logits.flatten(0, 1), places).view(len(counts), depth).tolist()
