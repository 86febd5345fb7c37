"""Draft and verify, whatever the model: the loop that writes token-level texts and the sentences of an SLLM.

A pass reads the newest token of each text and the draft tokens after it, all at once. The model's own choice after each
of them tells which drafts are what it would have written itself; these stay, and what it chose after the last of them
comes on top. Choices and the next drafts are read off the same product with the vocabulary.

B texts (or sentences of B texts), R rows of a pass, k drafting heads, D width of the vocabulary table, V vocabulary.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig

from lmbase.modeling.decoding import NO_TOKEN, Sampler
from lmbase.modeling.endings import Endings
from lmbase.text.padding import pad_tokens
from lmbase.text.told_ends import ToldEnds
from multitoken.copying import PromptLookup, copied_guesses
from multitoken.draft_length import DraftLength
from multitoken.draft_tree import DraftTree, verify
from multitoken.speculation import SpeculationStatistics
from multitoken.transitions import Ahead, Guessers, draft


@dataclass
class Stretch:
    """What is being written of one text: all of it, or one sentence."""

    ids: list[int]  # tokens so far; those that are given come first
    room: int  # new tokens that may be added
    fewest: int = 0  # new tokens before which it may not end
    before: list[int] = field(default_factory=list)  # ids of the text in front of these, for whoever asks to see it all
    told: ToldEnds | None = None  # tells of each token whether it is the last; has read the text up to here
    fewest_of_text: int = 0  # new tokens before which no other id than the end mark may end the text
    new: list[int] = field(default_factory=list)
    writing: bool = True
    ended: bool = False  # by its end mark
    full: bool = False  # it has as many tokens as one may have, or is told to be over
    reason: str = ""  # why the text is over, if that is neither by an end mark nor by its length


@dataclass
class Drafting:
    """How the texts of a call are drafted."""

    tree: DraftTree  # the largest draft
    automatic: bool = False  # draft as long as it pays
    lookups: Sequence[PromptLookup] = ()  # of each text, if drafts are copied; they have read what is given


@dataclass
class Read:
    """What a pass over R rows of each text brings."""

    hidden: Tensor  # (B,R,1+k,D) of the model and its drafting heads, as their products with the vocabulary read it
    logits: Tensor  # (B,R,1+k,V)
    num_heads: int  # k drafting heads that read along
    states: Any  # what the reader remembers of the pass, for `keep`


class Reader(Protocol):
    """A model's side of the loop: it reads rows of B texts with caches of its own.

    Attributes:
        end, opening, pad: ids. `opening` is what a stretch without tokens begins with; None: stretches have tokens.
        longest: tokens of a stretch, at most.
        framed: a stretch is a part of a text: the pass that opens it and the mark that ends it count as written.
        fixed: caches have a fixed size, so shapes of passes should recur and finished texts stay.
    """

    end: int
    opening: int | None
    pad: int
    longest: int
    framed: bool
    fixed: bool

    def read(
        self, ids: Tensor, tree: DraftTree | None, num_heads: int, last: Sequence[int] | None, recurs: bool
    ) -> Read:
        """Read R more rows (B, R) of each text: one after another, or those of a draft tree.

        Args:
            num_heads: k.
            last: only what follows this row of each text (B,) is asked for.
            recurs: the shape is one of few, so that compiling it pays.
        """

    def keep(self, read: Read, rows: Sequence[Sequence[int]]) -> None:
        """Of the rows just read those that stand."""

    def select(self, texts: Sequence[int]) -> None:
        """Go on with these of the B texts only, in this order."""

    def guessers(self, num_heads: int) -> Guessers:
        """What the first drafting heads guess with."""

    def fast_draft(self, tree: DraftTree, newest: Sequence[int], heads: Ahead) -> Tensor | None:
        """Greedy draft tokens by a compiled step; None if there is no such step."""


class DraftLoop:
    """Writes the texts of one call; what it learns about drafting goes on from one stretch to the next.

    Args:
        endings: what ends a text beside the reader's mark.
    """

    def __init__(
        self,
        reader: Reader,
        num_texts: int,
        sampler: Sampler,
        drafting: Drafting,
        endings: Endings | None = None,
    ):
        self.reader, self.sampler, self.lookups = reader, sampler, drafting.lookups
        self.endings = endings or Endings(GenerationConfig())
        self.show_draft: Callable[[list[int], int | None], None] | None = None  # of a call with one text
        self.num_chosen = [0] * num_texts  # tokens, and marks that count, of each text: where its next draw stands
        # At a stretch's first pass at least so much room is left behind the drafts, or no pass would be measured.
        drafts = drafting.tree.pruned(max(reader.longest - 3, 0))
        self.drafts = [drafts.pruned(depth) for depth in range(drafts.depth + 1)]
        self.length = DraftLength(drafts.depth) if drafting.automatic else None
        self.statistics = SpeculationStatistics()

    @property
    def looks_back(self) -> bool:
        """Whether a stretch's `before` is asked for."""
        return bool(self.sampler.processors or self.endings.criteria)

    def run(self, stretches: Sequence[Stretch]) -> Iterator[None]:
        """Write on until no stretch is `writing`; those that are not from the start are left alone. Yields after each
        pass; what it wrote stands in the stretches' `new`."""
        self.stretches = list(stretches)
        self.texts = list(range(len(stretches)))  # whose stretch each row is: rows of finished ones are let go
        self.guessed: DraftTree  # what `guesses` are the nodes of, below the root
        self.guesses: list[list[int]]
        self._guess_nothing()
        for stretch in stretches:
            if stretch.writing and (stretch.room <= 0 or len(stretch.ids) >= self.reader.longest):
                stretch.writing, stretch.full = False, stretch.room > 0
        if not any(stretch.writing for stretch in stretches):
            return
        self._let_go()
        self._open()
        yield
        while any(stretch.writing for stretch in stretches):
            self._let_go()
            self._pass()
            yield
        if self.length is not None:
            self.statistics.break_even = self.length.break_even

    # -- passes --------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Read what is given, all at once; choose the token after it."""
        reader = self.reader
        opening = [] if reader.opening is None else [reader.opening]
        rows = [[*opening, *stretch.ids] for stretch in self.stretches]
        ids, _ = pad_tokens(rows, reader.pad)
        wanted = self._wanted()
        num_heads = 0 if self.lookups else wanted
        recurs = ids.shape[1] == 1 and self._recurs(num_heads)
        read = reader.read(ids, None, num_heads, [len(row) - 1 for row in rows], recurs)
        chosen, heads = self._choose(read, [[[]] for _ in rows])
        reader.keep(read, [range(len(row)) for row in rows])
        for b, stretch in enumerate(self.stretches):
            if stretch.writing:
                num_tokens = self._append(b, chosen[b])
                if reader.framed:
                    self.statistics.add(0, 0, num_tokens)
        self._draft(heads, [0] * len(rows), wanted)

    def _pass(self) -> None:
        """Read the newest token and the drafts after it, keep what the model itself would have written, and draft."""
        began = time.perf_counter()
        wanted, reader = self._wanted(), self.reader
        alive = [stretch for stretch in self.stretches if stretch.writing]
        room = max(min(reader.longest - len(s.ids), s.room - len(s.new)) for s in alive)
        tree = self.guessed.pruned(room - 1)
        following = max(min(wanted, room - 2), 0)
        newest = [stretch.ids[-1] if stretch.ids else reader.pad for stretch in self.stretches]
        num_guesses = len(tree.nodes) - 1
        rows = [[token, *guesses[:num_guesses]] for token, guesses in zip(newest, self.guesses, strict=True)]
        if self.show_draft and tree.depth:
            self.show_draft(_branch(tree, rows[0], [0]), None)
        recurs = self._recurs(tree.depth) and (bool(self.lookups) or tree.depth == following)
        read = reader.read(torch.tensor(rows), tree, 0 if self.lookups else following, None, recurs)
        self.guessed = tree
        between = [[[row[above] for above in lineage] for lineage in tree.lineages] for row in rows]
        chosen, heads = self._choose(read, between)
        kept, ends, accepted = self._accept(tree, rows, chosen)
        reader.keep(read, kept)
        self._draft(heads, ends, following)
        # Copying costs nothing, so a pass takes what verifying takes: any find of up to `wanted` tokens.
        if self.length is not None and (tree.depth <= wanted if self.lookups else tree.depth == following == wanted):
            self.length.record(wanted if tree.depth else 0, accepted / len(alive), time.perf_counter() - began)

    def _accept(
        self, tree: DraftTree, rows: list[list[int]], chosen: list[list[int]]
    ) -> tuple[list[Sequence[int]], list[int], int]:
        """Append what is accepted; returns the rows that stand, where each newest token was chosen, and how many drafts
        came true."""
        kept: list[Sequence[int]] = []
        ends: list[int] = []
        accepted = 0
        for b, (stretch, row) in enumerate(zip(self.stretches, rows, strict=True)):
            path = verify(tree, row, chosen[b]) if stretch.writing else [0]
            ends.append(path[-1])
            if stretch.writing:
                num_tokens = self._append(b, [*(row[r] for r in path[1:]), chosen[b][path[-1]]])
                num_accepted = min(len(path) - 1, num_tokens)  # what is behind an end mark or a limit is not
                self.statistics.add(tree.depth, num_accepted, num_tokens)
                accepted += num_accepted
                if self.show_draft and tree.depth:
                    self.show_draft(_branch(tree, row, path), num_accepted)
            # A finished stretch grows like one that accepts nothing: one by one all stay of one length, which is fast.
            # Caches of fixed size have no room for that, and gain nothing by it.
            kept.append([] if self.reader.fixed and not stretch.writing else path)
        return kept, ends, accepted

    def _let_go(self) -> None:
        """Where half of the rows or more are of finished stretches, go on without them. Not where shapes should
        recur."""
        if self.reader.fixed:
            return
        alive = [b for b, stretch in enumerate(self.stretches) if stretch.writing]
        if 2 * len(alive) > len(self.stretches) or not alive:
            return
        num_rows = 1 << (len(alive) - 1).bit_length()  # a power of two: few shapes, so that kernels are made once
        finished = [b for b, stretch in enumerate(self.stretches) if not stretch.writing]
        kept = alive + finished[: num_rows - len(alive)]
        self.reader.select(kept)
        self.stretches = [self.stretches[b] for b in kept]
        self.texts = [self.texts[b] for b in kept]
        self.guesses = [self.guesses[b] for b in kept]

    def _recurs(self, depth: int) -> bool:
        """Drafts of this size are verified in compiled steps: few sizes are, since each takes a while."""
        return depth in (0, len(self.drafts) - 1)

    def _wanted(self) -> int:
        return len(self.drafts) - 1 if self.length is None else self.length.choose()

    def _append(self, b: int, tokens: list[int]) -> int:
        """Add chosen tokens as far as stretch b goes; returns how many, its end mark among them if marks count."""
        stretch, text, reader = self.stretches[b], self.texts[b], self.reader
        before = self.num_chosen[text]
        for token in tokens:
            if not stretch.writing:
                break
            if token == NO_TOKEN:
                raise ValueError(
                    f"No token of text {text} can be chosen: a logits processor forbids all (or min_new_tokens the end "
                    "mark, and it the rest), or the model's logits are NaN; check the processor, or the weights."
                )
            if token == reader.end:
                stretch.writing, stretch.ended = False, True
                if not reader.framed:
                    break
            elif token in self.endings.ids:
                stretch.writing, stretch.reason = False, "stop"
                break
            else:
                stretch.ids.append(token)
                stretch.new.append(token)
                over = stretch.told is not None and stretch.told.add([token])
                stretch.full = over or len(stretch.ids) >= reader.longest
                stretch.writing = not stretch.full and len(stretch.new) < stretch.room
                if self.endings.watching:
                    stretch.reason = self.endings.reason(text, token, lambda: stretch.before + stretch.ids)
                    stretch.writing = stretch.writing and not stretch.reason
            self.num_chosen[text] += 1
            if self.lookups:
                self.lookups[text].extend([token])
        self.sampler.forget(text, self.num_chosen[text])
        return self.num_chosen[text] - before

    def _choose(self, read: Read, guesses: list[list[list[int]]]) -> tuple[list[list[int]], Ahead]:
        """The model's choice after each row (B, R), and what k drafting heads say there: (B, R, k, ..).

        Args:
            guesses: (B, R) what is drafted between a stretch's newest token and each row's choice.
        """
        b, r = read.logits.shape[:2]
        logits = read.logits[:, :, 0].flatten(0, 1)  # (B*R,V)
        texts = self.stretches
        logits = self.sampler.process(
            logits, lambda row: texts[row // r].before + texts[row // r].ids + guesses[row // r][row % r]
        )
        self._forbid([self.reader.end], [stretch.fewest for stretch in texts], guesses, logits)
        if self.endings.ids:
            self._forbid(self.endings.ids, [stretch.fewest_of_text for stretch in texts], guesses, logits)
        places = [
            (text, self.num_chosen[text] + len(between))
            for text, row in zip(self.texts, guesses, strict=True)
            for between in row
        ]
        heads = Ahead(read.hidden[:, :, 1:], read.logits[:, :, 1:])
        return self.sampler.choose(logits, places).view(b, r).tolist(), heads

    def _forbid(self, ends: Iterable[int], fewest: list[int], guesses: list[list[list[int]]], logits: Tensor) -> None:
        """Take ids out of logits (B*R, V) where a stretch has fewer new tokens than that."""
        early = [
            len(stretch.new) + len(between) < least
            for stretch, least, row in zip(self.stretches, fewest, guesses, strict=True)
            for between in row
        ]
        if any(early):
            rows = torch.tensor(early, device=logits.device)
            for end in ends:
                logits[rows, end] = -torch.inf

    # -- drafts --------------------------------------------------------------------------------------------------------

    def _draft(self, heads: Ahead, rows: list[int], depth: int) -> None:
        """Draft what follows each stretch's newest token, chosen at one of the rows (B,) of heads (B, R, k, ..)."""
        if self.lookups:
            self._copy(depth)
            return
        if not depth:
            self._guess_nothing()
            return
        reader, tree = self.reader, self.drafts[depth]
        newest = [stretch.ids[-1] if stretch.ids else reader.pad for stretch in self.stretches]
        last = heads.at(range(len(rows)), rows)
        found = None
        if depth == len(self.drafts) - 1 and not self.sampler.noise:
            found = reader.fast_draft(tree, newest, last)
        if found is None:
            places = [(text, self.num_chosen[text]) for text in self.texts]
            found = draft(tree, newest, last, reader.guessers(depth), self.sampler, places)
        self.guessed, self.guesses = tree, found.tolist()

    def _copy(self, depth: int) -> None:
        """Take drafts from each text so far."""
        alive = (stretch.writing for stretch in self.stretches)
        lookups = [self.lookups[text] for text in self.texts]
        self.guesses = copied_guesses(lookups, alive, depth, self.reader.pad)
        self.guessed = self.drafts[len(self.guesses[0])]

    def _guess_nothing(self) -> None:
        self.guessed, self.guesses = self.drafts[0], [[] for _ in self.stretches]


def _branch(tree: DraftTree, row: list[int], path: Sequence[int]) -> list[int]:
    """The draft tokens of a path (rows from the root), and of the first choices after it."""
    rows = list(path)
    while tree.children[rows[-1]]:
        rows.append(tree.children[rows[-1]][0])
    return [row[r] for r in rows[1:]]
