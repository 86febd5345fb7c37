"""Writing with several heads: heads 2 to n guess ahead, trunk and head 1 verify all guesses in one pass.

B texts, R rows of a pass (a draft's nodes), L tokens, D width, V vocabulary, P positions that drafting heads have not
read.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import ModelOutput

from lmbase.modeling.cache import RowCache, give_back
from lmbase.modeling.decoding import DEFAULT_NEW_TOKENS, Sampler, merge_generation_config
from lmbase.modeling.inference import inference_method
from lmbase.text.tokenizers import encode_text
from multitoken.compiled_step import compiled_step, trunk_cache
from multitoken.copying import PromptLookup, copied_guesses, make_lookups
from multitoken.speculation import DraftLength, DraftTree, SpeculationStatistics, check_drafts, verify
from multitoken.transitions import Ahead, draft

if TYPE_CHECKING:
    from multitoken.modeling_multitoken import MultiTokenLM


@dataclass
class MultiTokenGenerateOutput(ModelOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids; texts that ended early are padded on the right. New ids of a prompt of L
            columns are `sequences[:, L:]`.
        num_new_tokens: for each text, its end mark not counted.
        finish_reason: for each text `stop` (the model ended it), `length` (max_new_tokens) or `context` (no position
            is left).
        texts: for each text the new part, decoded; None without a tokenizer.
        statistics: what drafting brought.
        cache_bytes: of keys and values that were held in the end.
    """

    sequences: Tensor = None  # type: ignore[assignment]  # a ModelOutput's fields need defaults
    num_new_tokens: list[int] = None  # type: ignore[assignment]
    finish_reason: list[str] = None  # type: ignore[assignment]
    texts: list[str] | None = None
    statistics: SpeculationStatistics = None  # type: ignore[assignment]
    cache_bytes: int = None  # type: ignore[assignment]


@dataclass
class _Text:
    """One text while it is being written."""

    prompt: list[int]
    new: list[int] = field(default_factory=list)
    finish_reason: str = ""
    unread: list[Tensor] = field(default_factory=list)  # (r, D): what drafting heads have yet to read


class MultiTokenGenerationMixin(GenerationMixin):
    """`generate` for MultiTokenLM."""

    @inference_method
    def generate(  # type: ignore[override, misc]
        self: "MultiTokenLM",
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer=None,
        *,
        text: str | Sequence[str] | None = None,
        num_draft: int | str = "auto",
        tree: DraftTree | Sequence[Sequence[int]] | None = None,
        use_mtp: bool | None = None,
        seed: int | None = None,
        **kwargs,
    ) -> MultiTokenGenerateOutput:
        """Continue texts. The new ids are those of plain decoding with head 1, whatever is drafted: for greedy decoding
        and, with the same seed, for sampling.

        Args:
            input_ids: (B, L) ids that open with </s>, padded on the left or right; or give `text`.
            attention_mask: of the same shape; default: everything but padding.
            generation_config, kwargs: as in Transformers: max_new_tokens, do_sample, temperature, top_k, top_p ...;
                with return_dict_in_generate=False only the tensor `sequences` is returned; prompt_lookup_num_tokens=k
                drafts up to k tokens by copying what followed the newest ones (max_matching_ngram_size, default 2)
                earlier in the text, instead of with heads.
            logits_processor: as in Transformers, called for one text at a time with the ids before the token (1, L).
            streamer: a Transformers streamer (one text only); it is handed the tokens of a pass together.
            text: a text or a list of texts.
            num_draft: k writes with heads 1 to k, 1 is plain decoding; `auto` drafts, or copies, as long as it pays,
                by measured acceptance and measured cost of a step.
            tree: draft several candidates of each head (paths, see `DraftTree`); `num_draft` limits its depth. Default:
                for `auto` the tree in the model's configuration, if one was measured for it, else a chain.
            use_mtp: Transformers' word for drafting: True is num_draft="auto", False is num_draft=1.
            seed: makes sampling repeatable.

        cache_implementation="static" (Transformers' word; with a compile_config, if that is to say how, or with
        disable_compile) gives a cache of fixed size and compiles the step of trunk and head 1 with no guesses or with
        the largest draft: the first call takes up to minutes, and the cache stays with the model. Rounding apart the
        text is the same.

        Raises:
            ValueError: more heads than the model has, a tree that names one, ids outside the vocabulary, a prompt
                without a position left, an unsupported setting, a text with a lone surrogate.
        """
        if use_mtp is not None:
            num_draft = num_draft if use_mtp else 1
        config = merge_generation_config(self.generation_config, generation_config, kwargs)
        compiled = compiled_step(self, config)
        num_copied = config.prompt_lookup_num_tokens
        if tree is None and num_draft == "auto" and num_copied is None:
            tree = self.config.draft_tree
        if (input_ids is None) == (text is None):
            raise ValueError("Give either input_ids or text.")
        if text is not None:
            input_ids, attention_mask = _encode(self, [text] if isinstance(text, str) else list(text))
        assert input_ids is not None
        texts = [_Text(ids) for ids in _rows(self, input_ids, attention_mask)]
        if streamer is not None and len(texts) != 1:
            raise ValueError(f"A streamer shows one text, and {len(texts)} prompts were given.")
        limit = DEFAULT_NEW_TOKENS if config.max_new_tokens is None else config.max_new_tokens
        sampler = Sampler(config, len(texts), self.config.vocab_size, self.device, seed, logits_processor)
        lookups = make_lookups(config, (text.prompt for text in texts))
        heads, vocab_size = self.config.num_future_tokens, self.config.vocab_size
        drafts, automatic = check_drafts(num_draft, tree, heads, vocab_size, num_copied)
        writer = _Writer(self, texts, sampler, limit, config.min_new_tokens or 0, lookups, compiled)
        if streamer is not None:
            streamer.put(input_ids.cpu())
        shown = 0
        length = DraftLength(drafts.depth) if automatic else None
        for _ in writer.run(drafts, length):
            if streamer is not None and len(texts[0].new) > shown:
                streamer.put(torch.tensor(texts[0].new[shown:]))
                shown = len(texts[0].new)
        if streamer is not None:
            streamer.end()
        if length is not None:
            writer.statistics.break_even = length.break_even
        output = _output(self, texts, input_ids, writer)
        if compiled is not None and limit:
            give_back(self, "trunk", writer.cache)
        if config.return_dict_in_generate is False:
            return output.sequences  # type: ignore[return-value]  # for code that was written for Transformers' models
        return output


class _Writer:
    """The texts of one call, what was read of them, and how tokens are chosen."""

    def __init__(
        self,
        model: "MultiTokenLM",
        texts: list[_Text],
        sampler: Sampler,
        limit: int,
        min_new_tokens: int,
        lookups: Sequence[PromptLookup] = (),
        compiled: Callable | None = None,
    ):
        self.model, self.texts, self.sampler, self.lookups = model, texts, sampler, lookups
        self.compiled = compiled  # what reads rows in shapes that recur
        self.limit, self.min_new_tokens = limit, min_new_tokens
        self.statistics = SpeculationStatistics()
        # Anticausal heads: head 1 reads through all others, so their states are there without being asked for.
        self.eager_heads = model.config.head_kind == "anticausal"

    def run(self, drafts: DraftTree, length: DraftLength | None) -> Iterator[None]:
        """Write until every text has a finish_reason; yields after each pass."""
        model, positions = self.model, self.model.config.max_position_embeddings
        longest = max(len(text.prompt) for text in self.texts)
        if self.limit == 0:
            for text in self.texts:
                text.finish_reason = "length"
            return
        self.last_head = 1 if self.lookups else drafts.depth + 1
        # Behind the text the pass that ends it may leave guesses, and later ones of other texts write there.
        capacity = min(longest + self.limit, positions) + 2 * len(drafts.nodes)
        fixed = self.compiled is not None
        num_texts = len(self.texts)
        self.cache = trunk_cache(model, num_texts, capacity) if fixed else RowCache(num_texts, capacity, model.device)
        self.draft_cache = RowCache(len(self.texts), capacity, model.device)
        self.by_depth = [drafts.pruned(depth) for depth in range(drafts.depth + 1)]
        wanted = drafts.depth if length is None else length.choose()
        self._read_prompts(self.by_depth[wanted])
        yield
        while alive := self._alive_within(positions):
            began = time.perf_counter()
            wanted = drafts.depth if length is None else length.choose()
            room = max(self.limit - len(text.new) for text in alive)
            held = [n for n, text in zip(self.cache.lengths, self.texts, strict=True) if not text.finish_reason]
            tree = self.guessed.pruned(min(room, positions - max(held)) - 1)
            following = self.by_depth[max(min(wanted, room - 2), 0)]
            before = self.statistics.num_forwards, sum(self.statistics.accepted)
            self._pass(tree, following)
            # Copying costs nothing, so a pass takes what verifying takes: any find of up to `wanted` tokens.
            if length is not None and (
                tree.depth <= wanted if self.lookups else tree.depth == following.depth == wanted
            ):
                accepted = sum(self.statistics.accepted) - before[1]
                share = accepted / (self.statistics.num_forwards - before[0])
                length.record(wanted if tree.depth else 0, share, time.perf_counter() - began)
            yield

    # -- one pass ------------------------------------------------------------------------------------------------------

    def _read_prompts(self, following: DraftTree) -> None:
        """Read all prompts, choose the first new token of each, and guess what follows it."""
        ids, lengths = self._pad([text.prompt for text in self.texts])
        visible = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        z, states = self.model.step(ids, None, visible, self.cache)
        ahead = self._look_ahead(z, states, visible, following.depth)
        rows = torch.arange(len(lengths), device=ids.device), [length - 1 for length in lengths]
        own, others = (x[rows][:, None] for x in (states[0], ahead))
        chosen, heads = self._choose(own, others, [0], lambda b, r: [])
        self._keep(z, states, following.depth, [range(length) for length in lengths])
        for b in range(len(self.texts)):
            self._append(b, [chosen[b][0]])
        self._guess(heads, [0] * len(lengths), following)

    def _pass(self, tree: DraftTree, following: DraftTree) -> None:
        """Read the newest token and the guesses after it, keep what head 1 itself would have written, and guess what
        follows: choices and new guesses are read off the same product with the vocabulary."""
        model, device = self.model, self.model.device
        newest = [(text.new or text.prompt)[-1] for text in self.texts]  # of a text that ended at once: anything
        roots = torch.tensor(newest, device=device)[:, None]  # (B,1)
        ids = torch.cat([roots, self.guesses[:, : len(tree.nodes) - 1]], dim=1)  # (B,R)
        depths = torch.tensor([len(path) for path in tree.nodes], device=device)
        positions = torch.tensor(self.cache.lengths, device=device)[:, None] + depths  # (B,R)
        # a text that is over may have no position left; what becomes of it is thrown away
        positions = positions.clamp(max=model.config.max_position_embeddings - 1)
        visible = tree.visible.to(device)
        usual = tree.depth in (0, self.by_depth[-1].depth)  # few shapes, since compiling each takes a while
        z, states = model.step(ids, positions, visible, self.cache, self.compiled if usual else None)
        ahead = self._look_ahead(z, states, visible, following.depth)
        drafted = ids.tolist()
        between = lambda b, r: [drafted[b][above] for above in tree.lineages[r]]  # noqa: E731
        chosen, heads = self._choose(states[0], ahead, [len(path) for path in tree.nodes], between)
        kept: list[Sequence[int]] = []
        for b, text in enumerate(self.texts):
            if text.finish_reason:
                kept.append(())
                continue
            rows = verify(tree, drafted[b], chosen[b])
            kept.append(rows)
            written = [*(drafted[b][row] for row in rows[1:]), chosen[b][rows[-1]]]
            num_tokens = self._append(b, written)
            # what is behind an end mark or a limit is not accepted
            self.statistics.add(tree.depth, min(len(rows) - 1, num_tokens), num_tokens)
        self._keep(z, states, following.depth, kept)
        self._guess(heads, [rows[-1] if rows else 0 for rows in kept], following)

    def _keep(self, z: Tensor, states: list[Tensor], depth: int, rows: list[Sequence[int]]) -> None:
        """Of the rows just read those that stand; heads that have not read them will, before their next guess."""
        self.cache.keep(rows)
        if self.eager_heads or self.last_head == 1:
            return
        if depth:
            self.draft_cache.keep(rows)
            return
        source = self._source(z, states)
        for b, kept in enumerate(rows):
            self.texts[b].unread.append(source[b, list(kept)])

    def _source(self, z: Tensor, states: list[Tensor]) -> Tensor:
        """What head 2 reads."""
        return states[0] if self.model.config.head_kind == "causal" else z

    def _look_ahead(self, z: Tensor, states: list[Tensor], visible: Tensor, depth: int) -> Tensor:
        """States (B, R, depth, D) of heads 2, 3 ... at the rows that were just read.

        Args:
            z, states: what `step` returned. visible: (R, R) what each row saw of the others.
        """
        if depth == 0 or self.lookups:
            return z.new_empty(*z.shape[:2], 0, z.shape[2])
        if self.eager_heads:
            return torch.stack(states[1 : depth + 1], dim=2)
        model, last = self.model, self.last_head
        if any(text.unread for text in self.texts):
            filled = [torch.cat(text.unread) if text.unread else z.new_empty(0, z.shape[2]) for text in self.texts]
            x = torch.nn.utils.rnn.pad_sequence(filled, batch_first=True)  # (B,P,D)
            square = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            for _ in model.run_heads(x, 2, last, self.draft_cache.visible(square), self.draft_cache):
                pass
            self.draft_cache.keep([range(len(of_text)) for of_text in filled])
            for text in self.texts:
                text.unread = []
        # All that may draft read on, so that a longer draft later finds their keys and values.
        mask = self.draft_cache.visible(visible)
        found = dict(model.run_heads(self._source(z, states), 2, last, mask, self.draft_cache))
        return torch.stack([found[i] for i in range(2, depth + 2)], dim=2)

    def _guess(self, heads: Ahead, rows: list[int], tree: DraftTree) -> None:
        """Choose the tree's nodes below its root, each text's newest token, from what heads (B, R, k, ..) say at one of
        the rows (B,)."""
        if self.lookups:
            self._copy(tree.depth)
            return
        self.guessed = tree
        if not tree.depth:
            self.guesses = torch.empty(len(self.texts), 0, dtype=torch.long, device=self.model.device)
            return
        model = self.model
        newest = [(text.new or text.prompt)[-1] for text in self.texts]
        tables = [model.unembedding(j) for j in range(2, tree.depth + 2)]
        places = [(b, len(text.new)) for b, text in enumerate(self.texts)]
        embed = model.get_input_embeddings()
        last = heads.at(range(len(rows)), rows)
        self.guesses = draft(tree, newest, last, model.draft_transitions, embed, tables, self.sampler, places)

    def _copy(self, depth: int) -> None:
        """Take guesses from each text so far."""
        alive = (not text.finish_reason for text in self.texts)
        rows = copied_guesses(self.lookups, alive, depth, self.model.config.pad_token_id)
        self.guessed = self.by_depth[len(rows[0])]
        self.guesses = torch.tensor(rows, dtype=torch.long, device=self.model.device).view(len(rows), -1)  # (B,R-1)

    def _choose(
        self, states: Tensor, ahead: Tensor, depths: list[int], guesses: Callable[[int, int], list[int]]
    ) -> tuple[list[list[int]], Ahead]:
        """Head 1's choice after each row (B, R), and what k further heads say there: (B, R, k, ..).

        Args:
            states, ahead: (B, R, D) of head 1 and (B, R, k, D) of heads 2, 3 ...
            depths: (R,) how many guesses lie between a text's newest token and each row's choice.
            guesses: those of text b before the choice of row r, for logits processors.
        """
        model, (b, r) = self.model, states.shape[:2]
        own = states[:, :, None]
        hidden = model.finish(torch.cat([own, ahead], dim=2) if ahead.shape[2] else own)  # (B,R,1+k,D)
        if model.unembeddings is None:
            every = hidden @ model.unembedding(1).T  # (B,R,1+k,V)
        else:
            every = torch.stack([hidden[:, :, i] @ model.unembedding(i + 1).T for i in range(hidden.shape[2])], dim=2)
        logits = every[:, :, 0].flatten(0, 1)  # (B*R,V)
        places = [(i, len(text.new) + depth) for i, text in enumerate(self.texts) for depth in depths]

        def before(row: int) -> list[int]:
            text = self.texts[row // r]
            return text.prompt + text.new + guesses(row // r, row % r)

        logits = self.sampler.process(logits, before)
        early = [position < self.min_new_tokens for _, position in places]
        if any(early):
            logits[torch.tensor(early, device=logits.device), model.config.eos_token_id] = -torch.inf
        return self.sampler.choose(logits, places).view(b, r).tolist(), Ahead(hidden[:, :, 1:], every[:, :, 1:])

    # -- texts ---------------------------------------------------------------------------------------------------------

    def _append(self, b: int, written: list[int]) -> int:
        """Add new tokens to text b as far as it goes; returns how many."""
        text, before = self.texts[b], len(self.texts[b].new)
        for token in written:
            if token == self.model.config.eos_token_id:
                text.finish_reason = "stop"
                break
            text.new.append(token)
            if self.lookups:
                self.lookups[b].extend([token])
            if len(text.new) >= self.limit:
                text.finish_reason = "length"
                break
        self.sampler.forget(b, len(text.new))
        return len(text.new) - before

    def _alive_within(self, positions: int) -> list[_Text]:
        """Texts to go on with; those that have no position left are over."""
        for text, length in zip(self.texts, self.cache.lengths, strict=True):
            if length >= positions and not text.finish_reason:
                text.finish_reason = "context"
        return self._alive()

    def _alive(self) -> list[_Text]:
        return [text for text in self.texts if not text.finish_reason]

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, list[int]]:
        lengths = [len(row) for row in rows]
        filled = [row + [self.model.config.pad_token_id] * (max(lengths) - len(row)) for row in rows]
        return torch.tensor(filled, device=self.model.device), lengths


def _encode(model: "MultiTokenLM", texts: list[str]) -> tuple[Tensor, Tensor]:
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("The prompt is neither a text nor a list of texts.")
    tokenizer = model._needed_tokenizer()
    rows = [[model.config.bos_token_id, *encode_text(tokenizer, text)] for text in texts]
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], device=model.device)
    return ids, mask


def _rows(model: "MultiTokenLM", input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """Each prompt's ids, checked."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: give (B, L).")
    mask = input_ids != model.config.pad_token_id if attention_mask is None else attention_mask.bool()
    if mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(mask.shape)} and input_ids {tuple(input_ids.shape)} differ.")
    if (((input_ids < 0) | (input_ids >= model.config.vocab_size)) & mask).any():
        raise ValueError(f"input_ids holds ids outside the model's vocabulary of {model.config.vocab_size}.")
    rows = [ids[m].tolist() for ids, m in zip(input_ids, mask, strict=True)]
    positions = model.config.max_position_embeddings
    for b, row in enumerate(rows):
        if not row:
            raise ValueError(
                f"Prompt {b} is empty: it needs at least the opening </s> (id {model.config.bos_token_id})."
            )
        if len(row) > positions:
            raise ValueError(f"Prompt {b} has {len(row)} tokens; the model has {positions} positions. Shorten it.")
    return rows


def _output(model: "MultiTokenLM", texts: list[_Text], input_ids: Tensor, writer: _Writer) -> MultiTokenGenerateOutput:
    width = max(len(text.new) for text in texts)
    new = [text.new + [model.config.pad_token_id] * (width - len(text.new)) for text in texts]
    decoded = [str(model.tokenizer.decode(text.new)) for text in texts] if model.tokenizer is not None else None
    return MultiTokenGenerateOutput(
        sequences=torch.cat([input_ids.cpu(), torch.tensor(new, dtype=torch.long).view(len(texts), -1)], dim=1),
        num_new_tokens=[len(text.new) for text in texts],
        finish_reason=[text.finish_reason for text in texts],
        texts=decoded,
        statistics=writer.statistics,
        cache_bytes=writer.cache.num_bytes + writer.draft_cache.num_bytes if hasattr(writer, "cache") else 0,
    )
