"""Writing with several heads: heads 2 to n draft, trunk and head 1 verify all drafts in one pass.

B texts, R rows of a pass (the newest token and drafts after it), L tokens, D width, H width of the trunk, P positions
that drafting heads have not read, k drafting heads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbase.modeling.cache import RowCache, give_back
from lmbase.modeling.settings import text_limits
from lmbase.text.streaming import written_text
from lmbase.text.tokenizers import encode_text
from multitoken.compiled_step import compiled_step, row_step, trunk_cache
from multitoken.conversion import vocabulary_matrices
from multitoken.draft_loop import DraftLoop, Read, Stretch
from multitoken.draft_tree import DraftTree
from multitoken.modeling_multitoken import MultiTokenModel
from multitoken.request import (
    ALWAYS_GIVEN,
    Call,
    GenerateOutput,
    NoRoomError,
    Request,
    check_text_ids,
    open_call,
    prompt_mask,
    warn_of_last_space,
)
from multitoken.transitions import Ahead, Guessers


@dataclass
class MultiTokenGenerateOutput(GenerateOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids; texts that ended early are padded on the right. New ids of a prompt of L
            columns are `sequences[:, L:]`.
        cache_bytes: of the keys and values of all positions that were read.
    """

    cache_bytes: int = ALWAYS_GIVEN


def generate(model: MultiTokenModel, request: Request, tokenizer) -> MultiTokenGenerateOutput:
    """`MultiTokenLM.generate`."""
    config = request.resolve(model)
    prompt, mask = request.prompt(), request.attention_mask
    if not isinstance(prompt, Tensor):
        prompt, mask = _encode(model, prompt, tokenizer)
    texts = _rows(model, prompt, mask, tokenizer)
    if request.tree is None and request.num_draft == "auto" and config.prompt_lookup_num_tokens is None:
        request.tree = model.config.draft_tree
    call = open_call(model, request, config, texts, tokenizer)
    stretches = []
    for ids in texts:
        limit, fewest = text_limits(config, len(ids))
        stretches.append(Stretch(list(ids), limit, fewest, fewest_of_text=fewest))
    reader = TokenReader(model, call, texts, max(stretch.room for stretch in stretches))
    loop = model.draft_loop(reader, len(texts), call.sampler, call.drafting, call.endings)
    loop.show_draft = call.stream.put_draft if call.stream.shows_drafts else None
    call.stream.put(prompt)
    for _ in loop.run(stretches):
        call.stream.follow(stretches[0])
        call.endings.show()
    call.stream.close()
    reader.close()
    output = _output(model, prompt, texts, stretches, loop, reader)
    output.texts = None if tokenizer is None else _new_texts(tokenizer, call, texts, stretches)
    return call.hand_out(output)


class TokenReader:
    """Reads whole texts, token by token or draft by draft, with the trunk, head 1 and what drafts beside it."""

    opening = None
    framed = False

    def __init__(self, model: MultiTokenModel, call: Call, texts: Sequence[Sequence[int]], num_new: int):
        self.model = model
        self.end, self.pad = model.config.eos_token_id, model.config.pad_token_id
        positions = model.config.max_position_embeddings
        self.longest = positions + 1  # the newest token needs no position
        self.compiled: Callable | None = compiled_step(model, call.config)
        self.fixed = self.compiled is not None
        self.read_row = row_step(model, call.config)
        # Behind the text the pass that ends it may leave drafts, and later ones of other texts write there.
        longest = max(map(len, texts))
        capacity = min(longest + min(num_new, positions), positions) + 2 * len(call.drafting.tree.nodes)
        make = trunk_cache if self.fixed else lambda model, n, size: RowCache(n, size, model.device)
        self.cache: RowCache = make(model, len(texts), capacity)
        # Heads that head 1 reads through are there anyway; others that draft have a cache of their own.
        self.last_head = 1 if call.drafting.lookups or model.kind.reads_all else call.drafting.tree.depth + 1
        self.draft_cache = RowCache(len(texts), capacity, model.device)
        self.unread: list[list[Tensor]] = [[] for _ in texts]  # (r, H): what drafting heads have yet to read

    def read(
        self, ids: Tensor, tree: DraftTree | None, num_heads: int, last: Sequence[int] | None, recurs: bool
    ) -> Read:
        model, device = self.model, self.model.device
        rows = ids.shape[1]
        if tree is None:
            visible = torch.ones(rows, rows, dtype=torch.bool, device=device).tril()
            depths = torch.arange(rows, device=device)
        else:
            visible = tree.visible.to(device)
            depths = torch.tensor([len(path) for path in tree.nodes], device=device)
        # a text that is over may have no position left; what becomes of it is thrown away
        positions = (self.cache.starts[:, None] + depths).clamp(max=self.longest - 2)  # (B,R)
        if self.read_row is not None and recurs and ids.shape == (1, 1) and not num_heads:
            z, states, hidden, logits = self.read_row(ids, positions, self.cache)
            return Read(hidden[:, :, None], logits[:, :, None], 0, (z, states))
        compiled = self.compiled if recurs else None
        z, states = model.step(ids.to(device), positions, visible, self.cache, compiled)
        ahead = self._look_ahead(z, states, positions, visible, num_heads)  # (B,R,k,H)
        own = states[0]
        if last is not None:
            own, ahead = (x[range(len(ids)), last][:, None] for x in (own, ahead))
        hidden = model.finish(torch.cat([own[:, :, None], ahead], dim=2) if num_heads else own[:, :, None])
        return Read(hidden, _logits(model, hidden), num_heads, (z, states))

    def keep(self, read: Read, rows: Sequence[Sequence[int]]) -> None:
        """Of the rows just read those that stand; heads that have not read them will, before their next draft."""
        self.cache.keep(rows)
        if self.last_head == 1:
            return
        if read.num_heads:
            self.draft_cache.keep(rows)
            return
        source = self._source(*read.states)
        for b, kept in enumerate(rows):
            self.unread[b].append(source[b, list(kept)])

    def select(self, texts: Sequence[int]) -> None:
        self.cache.select(texts)
        self.draft_cache.select(texts)
        self.unread = [self.unread[b] for b in texts]

    def guessers(self, num_heads: int) -> Guessers:
        model = self.model
        tables = [model.unembedding(j) for j in range(2, num_heads + 2)]
        return Guessers(model.draft_transitions, model.get_input_embeddings(), tables)

    def fast_draft(self, tree: DraftTree, newest: Sequence[int], heads: Ahead) -> Tensor | None:
        return None

    def close(self) -> None:
        """Nothing more is read: a cache of fixed size may serve the model's next call."""
        if self.fixed:
            give_back(self.model, "trunk", self.cache)

    def _source(self, z: Tensor, states: list[Tensor]) -> Tensor:
        """What head 2 reads."""
        return states[0] if self.model.kind.chained else z

    def _look_ahead(
        self, z: Tensor, states: list[Tensor], positions: Tensor, visible: Tensor, num_heads: int
    ) -> Tensor:
        """States (B, R, k, H) of heads 2, 3 ... at the rows that were just read.

        Args:
            z, states: what `step` returned. visible: (R, R) what each row saw of the others.
        """
        if num_heads == 0:
            return z.new_empty(*z.shape[:2], 0, z.shape[2])
        if self.model.kind.reads_all:
            return torch.stack(states[1 : num_heads + 1], dim=2)
        model, cache, drafting = self.model, self.draft_cache, range(2, self.last_head + 1)
        if any(self.unread):
            filled = [torch.cat(unread) if unread else z.new_empty(0, z.shape[2]) for unread in self.unread]
            x = torch.nn.utils.rnn.pad_sequence(filled, batch_first=True)  # (B,P,H)
            square = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            places = cache.starts[:, None] + torch.arange(x.shape[1], device=x.device)
            places = places.clamp(max=self.longest - 2)
            for _ in model.run_heads(x, drafting, places, cache.visible(square), cache):
                pass
            cache.keep([range(len(of_text)) for of_text in filled])
            self.unread = [[] for _ in filled]
        # All that may draft read on, so that a longer draft later finds their keys and values.
        found = dict(model.run_heads(self._source(z, states), drafting, positions, cache.visible(visible), cache))
        return torch.stack([found[i] for i in range(2, num_heads + 2)], dim=2)


def _logits(model: MultiTokenModel, hidden: Tensor) -> Tensor:
    """What heads 1 to k say (B, R, k, D) as their vocabularies read it -> (B, R, k, V)."""
    of_heads = [hidden] if model.unembeddings is None else hidden.split(1, dim=2)
    tables: Iterable[Any] = model.packed_tables or [partial(F.linear, weight=w) for w in vocabulary_matrices(model)]
    return torch.cat([table(of_head) for table, of_head in zip(tables, of_heads, strict=False)], dim=2)


def _encode(model: MultiTokenModel, texts: list[str], tokenizer) -> tuple[Tensor, Tensor]:
    warn_of_last_space(tokenizer, texts)
    rows = [[model.config.bos_token_id, *encode_text(tokenizer, text)] for text in texts]
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], device=model.device)
    return ids, mask


def _rows(model: MultiTokenModel, input_ids: Tensor, attention_mask: Tensor | None, tokenizer) -> list[list[int]]:
    """Each prompt's ids, checked."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: give (B, L).")
    ids, mask = model.ids, prompt_mask(input_ids, attention_mask, model.config)
    rows = [row[m].tolist() for row, m in zip(input_ids, mask, strict=True)]
    # Every text is read behind the opening token. Many tokenizers put none in front, and where it is also what pads, it
    # was taken for padding.
    rows = [row if row[:1] == [ids.opening] else [ids.opening, *row] for row in rows]
    positions = model.config.max_position_embeddings
    for b, row in enumerate(rows):
        check_text_ids(row[1:], model.config, tokenizer)
        if len(row) > positions:
            raise NoRoomError(f"Prompt {b} has {len(row)} tokens; the model has {positions} positions. Shorten it.")
    return rows


def _output(
    model: MultiTokenModel,
    input_ids: Tensor,
    texts: Sequence[Sequence[int]],
    stretches: Sequence[Stretch],
    loop: DraftLoop,
    reader: TokenReader,
) -> MultiTokenGenerateOutput:
    width = max(len(stretch.new) for stretch in stretches)
    new = [stretch.new + [model.config.pad_token_id] * (width - len(stretch.new)) for stretch in stretches]
    caches = (reader.cache, reader.draft_cache)
    num_read = sum(len(ids) + len(stretch.new) for ids, stretch in zip(texts, stretches, strict=True)) - len(texts)
    return MultiTokenGenerateOutput(
        sequences=torch.cat([input_ids.cpu().long(), torch.tensor(new, dtype=torch.long).view(len(texts), -1)], dim=1),
        num_new_tokens=[len(stretch.new) for stretch in stretches],
        finish_reason=[_finish_reason(stretch) for stretch in stretches],
        statistics=loop.statistics,
        cache_bytes=round(sum(cache.position_bytes for cache in caches) * num_read),
    )


def _new_texts(tokenizer, call: Call, texts: Sequence[Sequence[int]], stretches: Sequence[Stretch]) -> list[str]:
    pairs = enumerate(zip(texts, stretches, strict=True))
    return [call.endings.shown(b, written_text(tokenizer, stretch.new, ids)) for b, (ids, stretch) in pairs]


def _finish_reason(stretch: Stretch) -> str:
    if stretch.ended or stretch.reason:
        return stretch.reason or "stop"
    return "length" if len(stretch.new) >= stretch.room else "context"
