"""Writing one sentence of each text: token by token, or draft and verify. Drafts are made by further heads on the
decoder or copied out of the text.

B texts, R rows of a pass (the newest token and guesses after it), T tokens of a sentence, D width, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmbase.modeling.cache import RowCache
from lmbase.modeling.decoding import Sampler
from lmbase.text.padding import pad_tokens
from multitoken.copying import PromptLookup, copied_guesses
from multitoken.speculation import DraftLength, DraftTree, SpeculationStatistics, verify
from multitoken.transitions import Ahead, draft
from sentencevae.modeling_sentencevae import Branches, DecoderState
from sllm.compiled_steps import CompiledSteps
from sllm.reading import ReadingState

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


@dataclass
class Read:
    """What a pass over R rows of each sentence brings."""

    states: Tensor  # (B,R,D) of the decoder, before the last norm
    num_heads: int  # k drafting heads that read along
    hidden: Tensor  # (B,R,1+k,D) of the decoder and these, after it, at all rows or only at the last
    logits: Tensor  # (B,R,1+k,V)


class SentenceWriter:
    """Writes sentences for the texts of one call; remembers what drafting brings from one to the next.

    Args:
        drafts: the largest draft. automatic: draft as long as it pays.
        lookups: of each text, if drafts are copied; they have read the prompts.
        steps: what runs the passes whose shapes recur; by default they run as they are written.
    """

    def __init__(
        self,
        model: "SLLM",
        num_texts: int,
        sampler: Sampler,
        drafts: DraftTree,
        automatic: bool,
        lookups: Sequence[PromptLookup] = (),
        steps: CompiledSteps | None = None,
    ):
        self.model, self.sampler, self.lookups, self.steps = model, sampler, lookups, steps
        self.num_chosen = [0] * num_texts  # tokens and end marks of each text: where its next draw stands
        # At a sentence's first pass at least so much room is left behind the guesses, or no pass would be measured.
        drafts = drafts.pruned(max(model.config.max_sentence_tokens - 3, 0))
        self.drafts = [drafts.pruned(depth) for depth in range(drafts.depth + 1)]
        self._drafting = model.draft_heads[: 0 if lookups else drafts.depth]
        self.length = DraftLength(drafts.depth) if automatic else None
        self.statistics = SpeculationStatistics()

    def write(self, state: ReadingState, sentences: Sequence[Sentence]) -> None:
        """Write on until no sentence is `writing`. Those that are not from the start are left alone."""
        self.sentences = list(sentences)
        self.texts = list(range(len(sentences)))  # whose sentence each row is: rows of finished ones are let go
        self.written = (self.steps or self.model).start_writing(state)
        self.read = state
        self.ahead: DecoderState | None = None  # of the drafting heads, from the first draft on
        self.unread: list[list[Tensor]] = [[] for _ in sentences]  # (r, D) of the decoder, what they have yet to read
        self.guessed: DraftTree  # what `guesses` are the nodes of, below the root
        self.guesses: list[list[int]]
        self._guess_nothing()
        self._let_go()
        self._open()
        while any(sentence.writing for sentence in sentences):
            self._let_go()
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
        wanted = self._wanted()
        num_heads = 0 if self.lookups else wanted
        usual = ids.shape[1] == 1 and self._usual(num_heads)
        read = self._read_rows(ids, num_heads, last=[len(row) - 1 for row in rows], usual=usual)
        chosen, heads = self._choose(read, [[[]] for _ in rows])
        self._keep(read, [range(len(row)) for row in rows])
        for b, sentence in enumerate(self.sentences):
            if sentence.writing:
                self.statistics.add(0, 0, self._append(b, chosen[b]))
        self._draft(heads, [0] * len(rows), wanted)

    def _pass(self) -> None:
        """Read the newest token and the guesses after it, keep what the decoder itself would have written, and guess
        what follows: choices and new guesses are read off the same product with the vocabulary."""
        began = time.perf_counter()
        wanted = self._wanted()
        alive = [sentence for sentence in self.sentences if sentence.writing]
        longest = self.model.config.max_sentence_tokens
        room = max(min(longest - len(sentence.ids), sentence.room - len(sentence.new)) for sentence in alive)
        tree = self.guessed.pruned(room - 1)
        following = max(min(wanted, room - 2), 0)
        newest = [sentence.ids[-1] if sentence.ids else 0 for sentence in self.sentences]
        num_guesses = len(tree.nodes) - 1
        rows = [[token, *guesses[:num_guesses]] for token, guesses in zip(newest, self.guesses, strict=True)]
        usual = self._usual(tree.depth) and (bool(self.lookups) or tree.depth == following)
        read = self._read_rows(torch.tensor(rows), 0 if self.lookups else following, self._branches(tree), usual=usual)
        self.guessed = tree
        between = [[[row[above] for above in lineage] for lineage in tree.lineages] for row in rows]
        chosen, heads = self._choose(read, between)
        kept: list[Sequence[int]] = []  # of the rows just read
        ends: list[int] = []  # where each sentence's newest token was chosen
        accepted = 0
        for b, (sentence, row) in enumerate(zip(self.sentences, rows, strict=True)):
            path = verify(tree, row, chosen[b]) if sentence.writing else [0]
            ends.append(path[-1])
            if sentence.writing:
                num_tokens = self._append(b, [*(row[r] for r in path[1:]), chosen[b][path[-1]]])
                num_accepted = min(len(path) - 1, num_tokens)  # what is behind an end mark or a limit is not
                self.statistics.add(tree.depth, num_accepted, num_tokens)
                accepted += num_accepted
            # A finished sentence grows like one that accepts nothing: one by one all stay of one length, which is fast.
            # Caches of fixed size have no room for that, and gain nothing by it.
            kept.append(path if sentence.writing or self.steps is None else [])
        self._keep(read, kept)
        self._draft(heads, ends, following)
        # Copying costs nothing, so a pass takes what verifying takes: any find of up to `wanted` tokens.
        if self.length is not None and (tree.depth <= wanted if self.lookups else tree.depth == following == wanted):
            self.length.record(wanted if tree.depth else 0, accepted / len(alive), time.perf_counter() - began)

    def _read_rows(
        self,
        ids: Tensor,
        num_heads: int,
        branches: Branches | None = None,
        last: Sequence[int] | None = None,
        usual: bool = False,
    ) -> "Read":
        """Read R rows (B, R) with the decoder and k drafting heads.

        Args:
            last: only what follows this row of each sentence (B,) is asked for.
            usual: a shape that recurs, so that compiling it pays.
        """
        model = self.model
        if self.steps is not None and usual and not (model.heads_attend and num_heads):
            states, hidden, logits = self.steps.write_rows(ids.to(model.device), self.written, branches, num_heads)
            return Read(states, num_heads, hidden, logits)
        states = every = model.autoencoder.decoder.read(self._embed(ids), self.written, branches)  # (B,R,D)
        ahead = self._look_ahead(states, num_heads, branches)  # (B,R,k,D)
        if last is not None:
            states, ahead = (x[range(len(ids)), last][:, None] for x in (states, ahead))
        return Read(every, num_heads, *model.say(states, ahead.unbind(2)))

    def _let_go(self) -> None:
        """Where half of the rows or more are of finished sentences, go on without them. Not in compiled steps, which
        want their shapes to recur."""
        if self.steps is not None:
            return
        alive = [b for b, sentence in enumerate(self.sentences) if sentence.writing]
        if 2 * len(alive) > len(self.sentences) or not alive:
            return
        num_rows = 1 << (len(alive) - 1).bit_length()  # a power of two: few shapes, so that kernels are made once
        finished = [b for b, sentence in enumerate(self.sentences) if not sentence.writing]
        kept = alive + finished[: num_rows - len(alive)]
        self.written.select(kept)
        if self.ahead is not None:
            self.ahead.select(kept)
        self.sentences = [self.sentences[b] for b in kept]
        self.texts = [self.texts[b] for b in kept]
        self.unread = [self.unread[b] for b in kept]
        self.guesses = [self.guesses[b] for b in kept]

    def _usual(self, depth: int) -> bool:
        """Drafts of this size are made in compiled steps: few sizes are, since each takes a while."""
        return depth in (0, len(self.drafts) - 1)

    def _wanted(self) -> int:
        return len(self.drafts) - 1 if self.length is None else self.length.choose()

    def _branches(self, tree: DraftTree) -> Branches | None:
        if len(tree.nodes) == tree.depth + 1:  # a chain
            return None
        depths = torch.tensor([len(path) for path in tree.nodes], device=self.model.device)
        return Branches(tree.visible.to(self.model.device), depths)

    def _keep(self, read: "Read", rows: list[Sequence[int]]) -> None:
        """Of the rows just read those that stand; heads that have not read them will, before their next guess."""
        self.written.cache.keep(rows)
        if not self.model.heads_attend:
            return
        if read.num_heads:
            assert self.ahead is not None
            self.ahead.cache.keep(rows)
        elif self._drafting:
            for b, kept in enumerate(rows):
                self.unread[b].append(read.states[b, list(kept)])

    def _append(self, b: int, tokens: list[int]) -> int:
        """Add chosen tokens as far as sentence b goes; returns how many, its end mark among them."""
        sentence, text, config = self.sentences[b], self.texts[b], self.model.config
        before = self.num_chosen[text]
        for token in tokens:
            if not sentence.writing:
                break
            self.num_chosen[text] += 1
            if self.lookups:
                self.lookups[text].extend([token])
            if token == config.eos_token_id:
                sentence.writing, sentence.closed = False, True
                break
            sentence.ids.append(token)
            sentence.new.append(token)
            sentence.closed = len(sentence.ids) >= config.max_sentence_tokens
            sentence.writing = not sentence.closed and len(sentence.new) < sentence.room
        self.sampler.forget(text, self.num_chosen[text])
        return self.num_chosen[text] - before

    def _choose(self, read: "Read", guesses: list[list[list[int]]]) -> tuple[list[list[int]], Ahead]:
        """The decoder's choice after each row (B, R), and what k drafting heads say there: (B, R, k, ..).

        Args:
            guesses: (B, R) what is guessed between a sentence's newest token and each row's choice.
        """
        b, r = read.logits.shape[:2]
        logits = read.logits[:, :, 0].flatten(0, 1)  # (B*R,V)
        empty = [not (s.ids or between) for s, row in zip(self.sentences, guesses, strict=True) for between in row]
        if any(empty):  # no sentence is without a token
            logits[torch.tensor(empty, device=logits.device), self.model.config.eos_token_id] = -torch.inf
        logits = self.sampler.process(logits, lambda row: self.sentences[row // r].ids + guesses[row // r][row % r])
        places = [
            (text, self.num_chosen[text] + len(between))
            for text, row in zip(self.texts, guesses, strict=True)
            for between in row
        ]
        heads = Ahead(read.hidden[:, :, 1:], read.logits[:, :, 1:])
        return self.sampler.choose(logits, places).view(b, r).tolist(), heads

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.autoencoder.embed_tokens(ids.to(self.model.device))

    # -- guesses -------------------------------------------------------------------------------------------------------

    def _look_ahead(self, states: Tensor, num_heads: int, branches: Branches | None = None) -> Tensor:
        """States (B, R, k, D) of the first k drafting heads at the rows (B, R, D) that the decoder has just read."""
        if num_heads == 0:
            return states.new_empty(*states.shape[:2], 0, states.shape[2])
        model = self.model
        if not model.heads_attend:
            return torch.stack([head(states) for head in self._drafting[:num_heads]], dim=2)
        if self.ahead is None:
            cache = RowCache(len(self.sentences), self.written.cache.capacity, model.device)
            memories = model.memories_of(self._drafting, self.read)
            if memories:
                rows = torch.tensor(self.texts, device=model.device)
                memories = [memory.select(rows) for memory in memories]
            self.ahead = DecoderState(cache, self.written.sentence_embeds, memories)
        if any(self.unread):
            filled = [torch.cat(unread) if unread else states.new_empty(0, states.shape[2]) for unread in self.unread]
            model.draft_states(self._drafting, torch.nn.utils.rnn.pad_sequence(filled, batch_first=True), self.ahead)
            self.ahead.cache.keep([range(len(x)) for x in filled])
            self.unread = [[] for _ in filled]
        # All that may draft read on, so that a longer draft later finds their keys and values.
        return torch.stack(model.draft_states(self._drafting, states, self.ahead, branches)[:num_heads], dim=2)

    def _draft(self, heads: Ahead, rows: list[int], depth: int) -> None:
        """Guess what follows each sentence's newest token, chosen at one of the rows (B,) of heads (B, R, k, ..)."""
        if self.lookups:
            self._copy(depth)
        elif depth:
            model, tree = self.model, self.drafts[depth]
            newest = [sentence.ids[-1] if sentence.ids else 0 for sentence in self.sentences]
            last = heads.at(range(len(rows)), rows)
            if (
                self.steps is not None
                and tree is self.drafts[-1]
                and model.draft_transitions
                and not self.sampler.noise
            ):
                found = self.steps.draft(tree, newest, last)
            else:
                tables = [model.get_input_embeddings().weight] * depth
                places = [(text, self.num_chosen[text]) for text in self.texts]
                transitions = model.draft_transitions
                found = draft(tree, newest, last, transitions, self._embed, tables, self.sampler, places)
            self.guessed = tree
            self.guesses = found.tolist()
        else:
            self._guess_nothing()

    def _copy(self, depth: int) -> None:
        """Take guesses from each text so far."""
        alive = (sentence.writing for sentence in self.sentences)
        lookups = [self.lookups[text] for text in self.texts]
        self.guesses = copied_guesses(lookups, alive, depth, self.model.config.pad_token_id)
        self.guessed = self.drafts[len(self.guesses[0])]

    def _guess_nothing(self) -> None:
        self.guessed, self.guesses = self.drafts[0], [[] for _ in self.sentences]
