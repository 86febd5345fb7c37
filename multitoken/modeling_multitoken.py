"""Multi-token language model: one trunk, n heads, one unembedding (arXiv 2404.19737, section 2).

B texts or windows, L tokens, D width of the vocabulary table, H width of the trunk, V vocabulary, n heads, M positions
that predict something, R rows of a step, C positions of a cache.

    </s> x1 .. xL (B,L+1) -> trunk -> (B,L+1,H) -> head i -> final norm (B,L+1,D) -> unembedding -> V
    position t of head i predicts x_{t+i}: head 1 alone is an ordinary language model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput, can_return_tuple

from lmbase.modeling.attention import added_mask, causal_places
from lmbase.modeling.cache import CACHE_KEY, FixedRows, RowCache
from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.labels import check_rows, check_unread
from lmbase.modeling.losses import VocabularyLoss, token_nats, vocabulary_loss
from lmbase.modeling.stages import BlockRunner
from lmbase.modeling.token_lm import Shifted, shift, shift_rows
from lmbase.modeling.trunk import SpecialIds, attention_width, new_trunk, own_weight, take_tail
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.draft_loop import DraftLoop
from multitoken.heads import HEAD_KINDS
from multitoken.transitions import Transition

INIT_STD = 0.02


@dataclass
class MultiTokenLMOutput(ModelOutput):
    """
    Args:
        loss: () weighted sum over heads, and their transitions, of mean nats per target of head 1.
        losses: named sums in nats: `heads`, that sum, and, to look at, `token` (head 1) and
            `head_2` .. `head_n`, with transitions also `after_2` .. `after_n` (a head's token, the one before it
            known). `loss_counts` has how many targets each has.
        correct: () targets of head 1 that were its first choice.
        logits: (B, L, V) of head 1, where they are asked for as in Transformers: without `ends`, out of training.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None


class _Part(NamedTuple):
    """M predictions of a head, alone or after the token before."""

    name: str  # of their loss
    head: int
    hidden: Tensor  # (M,D) as the unembedding reads it
    targets: Tensor  # (M,)
    mask: Tensor  # (B,L+1) where they stand


class MultiTokenLMPreTrainedModel(PreTrainedModel):
    config: MultiTokenLMConfig
    config_class = MultiTokenLMConfig
    base_model_prefix = "multi_token_lm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | Conv1D):
            init.normal_(module.weight, std=0.0 if getattr(module, "starts_silent", False) else INIT_STD)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class MultiTokenModel(MultiTokenLMPreTrainedModel):
    """Forward, scores and steps of n heads on one trunk. `multitoken.MultiTokenLM` is the class to use."""

    def __init__(self, config: MultiTokenLMConfig):
        config.check()
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # Transformers' Trainer counts labels as of any language model
        n = config.num_future_tokens
        self.kind = HEAD_KINDS[config.head_kind]
        self.trunk = new_trunk(config.trunk)
        # Heads read the trunk as a further layer would, and share what comes after the last layer.
        self.final_layer_norm, self.project_out = take_tail(self.trunk)
        first = config.trunk.num_hidden_layers
        self.heads = nn.ModuleList(self.kind.new(self.trunk, first + i) for i in range(n))
        table = self.get_input_embeddings().weight
        own = (nn.Linear(table.shape[1], table.shape[0], bias=False) for _ in range(n))
        self.unembeddings = nn.ModuleList(own) if config.own_unembeddings else None
        num_transitions = (n - 1) * config.draft_transitions
        self.draft_transitions = nn.ModuleList(Transition(table.shape[1]) for _ in range(num_transitions))
        self.num_active_heads = n  # a curriculum trains the first ones only
        self.trains_in_part = False  # says that it does, for training in several processes
        self.packed_tables = nn.ModuleList()  # copies of the heads' vocabulary matrices to write with
        self.post_init()
        self.freeze()

    def freeze(self) -> None:
        """Parts that the configuration leaves as they are need no gradients."""
        if self.config.train_transitions_only:
            self.requires_grad_(False)
            self.draft_transitions.requires_grad_(True)

    def train(self, mode: bool = True) -> "MultiTokenModel":
        super().train(mode)
        if self.config.train_transitions_only:  # what does not learn drops nothing out
            self.trunk.eval()
            self.heads.eval()
        return self

    @property
    def ids(self) -> SpecialIds:
        config = self.config
        return SpecialIds(config.pad_token_id, config.bos_token_id, config.eos_token_id)

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.trunk.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.trunk.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """As in Transformers; vocabulary matrices of the heads' own grow alike."""
        table = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        for i, own in enumerate(self.unembeddings or ()):
            assert self.unembeddings is not None
            self.unembeddings[i] = self._get_resized_lm_head(cast(nn.Linear, own), table.num_embeddings)
        return table

    def draft_loop(self, *args) -> DraftLoop:
        """What writes the texts of one call."""
        return DraftLoop(*args)

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        """`heads` is trained on; the others are its parts, to look at."""
        return {"heads": 1.0, **dict.fromkeys(self._names, 0.0)}

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor) -> dict[str, Tensor]:
        cut = shift(input_ids, attention_mask, ends, self.ids)
        targets = [cut.of_head(i)[1].sum() for i in range(1, len(self.heads) + 1)]
        counts = dict(zip(self._names, targets + targets[1:], strict=False))  # the last are those of transitions
        return {"heads": counts["token"], **counts}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        ends: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unread,
    ) -> MultiTokenLMOutput:
        """
        Args:
            input_ids, attention_mask: (B, L) text tokens of a window, padded on the right.
            ends: (B,) True where the window holds its text's end. Without it ids are read as by Transformers' language
                models: as they are, </s> in front and behind where a text begins and ends, padding on either side.
            labels: (B, L) a copy of the ids, -100 where nothing is predicted; head i of position t predicts label t+i.
            num_items_in_batch: what the sum of the loss is divided by; default: the number of head 1's targets.

        Raises:
            ValueError: rows longer than the positions, ids outside the vocabulary, a mask or labels of another shape,
                an argument that is not read (`position_ids`, a cache ...).
        """
        check_unread(unread)
        check_rows(input_ids, attention_mask, labels, self.config.vocab_size)
        cut = shift_rows(input_ids, attention_mask, ends, labels, self.ids)
        if cut is None:
            return MultiTokenLMOutput(logits=self.logits(input_ids, attention_mask))
        parts: list[_Part] = []
        logits = None
        for i, states in self._all_states(cut, self.num_active_heads):
            if i == 1 and ends is None and not self.training:
                logits = self.finish(states) @ self.unembedding(1).T
            of_head, mask = cut.of_head(i)
            parts.append(_Part(self._names[i - 1], i, self.finish(states[mask]), of_head[mask], mask))
        results = self._part_losses(parts)
        if self.draft_transitions and len(parts) > 1:
            targets = cut.targets
            if self.config.draft_targets == "greedy":
                targets = targets.masked_scatter(parts[0].mask, results[0].row_choice[: len(parts[0].targets)])
            after = self._after(parts, cut, targets)
            results += self._part_losses(after, trains_table=False)
            parts += after
        row_nats = torch.cat([result.row_nats for result in results])
        by_part = row_nats.split([len(part.targets) for part in parts])
        sums = {part.name: nats.sum() for part, nats in zip(parts, by_part, strict=True)}
        none = row_nats.new_zeros(())  # of heads that a curriculum leaves out
        losses = {
            "heads": torch.stack([result.loss for result in results]).sum(),
            **{name: sums.get(name, none) for name in self._names},
        }
        correct = results[0].row_correct[: len(parts[0].targets)].sum()
        count = max(len(parts[0].targets), 1) if num_items_in_batch is None else num_items_in_batch
        return MultiTokenLMOutput(loss=losses["heads"] / count, logits=logits, losses=losses, correct=correct)

    def _after(self, parts: list[_Part], cut: Shifted, targets: Tensor) -> list[_Part]:
        """What the heads' transitions make of the true token before each target.

        Args:
            targets: (B, L+1) of head 1.
        """
        found = []
        for part in parts[1:]:
            # Heads go on to say what is likely after whatever token: their best choices are the candidates.
            hidden, i = part.hidden.detach(), part.head
            embeds = self.get_input_embeddings()(cut.of_head(i - 1)[0][part.mask]).detach()
            moved = hidden + self.draft_transitions[i - 2](embeds, hidden)
            found.append(_Part(f"after_{i}", i, moved, targets.roll(1 - i, dims=1)[part.mask], part.mask))
        return found

    def _part_losses(self, parts: list[_Part], trains_table: bool = True) -> list[VocabularyLoss]:
        """Of all parts in one; of each, where heads have vocabularies of their own."""
        # One sum over all heads: its gradient with respect to the table is made chunk by chunk, in one place, so that
        # memory holds neither the heads' logits nor a table's gradient for each of them.
        weights = self.config.head_weights or [1.0] * len(self.heads)
        results = []
        for group in [parts] if self.unembeddings is None else [[part] for part in parts]:
            rows = [p.hidden.new_full((len(p.hidden),), weights[p.head - 1], dtype=torch.float32) for p in group]
            table = self.unembedding(group[0].head)
            results.append(
                vocabulary_loss(
                    torch.cat([part.hidden for part in group]),
                    table if trains_table else table.detach(),
                    torch.cat([part.targets for part in group]),
                    row_weights=torch.cat(rows),
                )
            )
        return results

    def nats(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor,
        first: Tensor | None = None,
        measure: Any = token_nats,
    ) -> Tensor:
        """-log p of every target under head 1, in fp32, (B, L+1); 0 where there is none.

        Args: as for `forward`;
            first: (B,) the first target to score, those before it are context and get zeros; default: 0.
            measure: `token_nats`, or `signed_nats`, whose signs say which targets were the first choice.
        """
        return next(self.nats_by_head(input_ids, attention_mask, ends, first, measure))

    def nats_by_head(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor,
        first: Tensor | None = None,
        measure: Any = token_nats,
    ) -> Iterator[Tensor]:
        """For each head in turn, when it is asked for, -log p of its targets (B, L+1), at the position that predicts
        them."""
        cut = shift(input_ids, attention_mask, ends, self.ids)
        for i, states in self._all_states(cut, len(self.heads)):
            targets, mask = cut.of_head(i, first)
            values = measure(self.finish(states[mask]), self.unembedding(i), targets[mask])
            yield torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Head 1's logits (B, L, V) after each of (B, L) ids, which open with </s>, padded on the left or right."""
        positions, mask = causal_places(input_ids, attention_mask, self.config.max_position_embeddings)
        z = self.read(input_ids, positions, mask)
        states = dict(self.run_heads(z, range(1, self.num_read_heads + 1), positions, mask))[1]
        return self.finish(states) @ self.unembedding(1).T

    def flops(self, num_tokens: int, context: int, num_heads: int | None = None) -> float:
        """FLOPs of a forward pass through the first heads (default: all) in windows of `context` tokens, by formula."""
        config, n = self.config.trunk, num_heads or len(self.heads)
        heads = self.heads if self.kind.reads_all else self.heads[:n]
        blocks = config.num_hidden_layers + len(heads) * self.kind.is_block
        attention = attention_flops(attention_width(config), blocks, context / 2)
        table = 2.0 * n * self.unembedding(1).numel()
        outside = linear_flops(self.trunk) + linear_flops(heads)
        projection = n * linear_flops(self.project_out) if self.project_out is not None else 0.0
        between = sum(linear_flops(one) + table / n for one in self.draft_transitions[: n - 1])
        return num_tokens * (outside + projection + attention + table + between)

    # -- the parts -----------------------------------------------------------------------------------------------------

    @property
    def _names(self) -> list[str]:
        """Of the heads' losses. Head 1's is the loss of every language model here."""
        after = [f"after_{i}" for i in range(2, len(self.draft_transitions) + 2)]
        return ["token", *(f"head_{i}" for i in range(2, len(self.heads) + 1)), *after]

    @property
    def num_read_heads(self) -> int:
        """Head 1, and all heads that head 1 reads through."""
        return len(self.heads) if self.kind.reads_all else 1

    def _all_states(self, cut: Shifted, num_heads: int) -> Iterator[tuple[int, Tensor]]:
        """Head number and states (B, L+1, H) before the final norm, head 1 first."""
        positions, mask = causal_places(cut.input_ids, cut.attention_mask, self.config.max_position_embeddings)
        z = self.read(cut.input_ids, positions, mask)
        found = self.run_heads(z, range(1, num_heads + 1), positions, mask)
        yield from sorted(found, key=lambda pair: pair[0]) if self.kind.reads_all else found

    def read(
        self, input_ids: Tensor, positions: Tensor, mask: Tensor | None, cache: RowCache | FixedRows | None = None
    ) -> Tensor:
        """The trunk: ids (B, R) -> states (B, R, H) that heads read.

        Args:
            positions: (B, R).
            mask: (B, 1, R, C) bool, what each row sees; default: itself and those before it.
        """
        return self.trunk(
            input_ids=input_ids,
            attention_mask=self._as_attention_mask(mask, input_ids.shape[1]),
            position_ids=positions,
            use_cache=cache is not None,
            **{CACHE_KEY: cache},
        ).last_hidden_state

    def run_heads(
        self,
        x: Tensor,
        numbers: range,
        positions: Tensor,
        mask: Tensor | None,
        cache: RowCache | FixedRows | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Numbers and states (B, R, H) of some heads, in the order in which they read each other.

        Args:
            x: what the earliest of them reads: the trunk's states, or those of the head before where heads are chained.
            positions, mask: as for `read`.
        """
        runner = BlockRunner(self.trunk, x, self._as_attention_mask(mask, x.shape[1]), positions, cache)
        yield from self.kind.run(list(self.heads), x, numbers, runner)

    def step(
        self,
        input_ids: Tensor,
        positions: Tensor,
        visible: Tensor,
        cache: RowCache,
        compiled: Callable | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Read R more ids of each text (B, R) with a cache, which the caller then tells what to `keep`.

        Args:
            positions: (B, R).
            visible: (R, R) bool, what each row sees of the others.
            compiled: what reads them in a cache of fixed size, see `compiled_step`.

        Returns:
            the trunk's states (B, R, H), and those of head 1 and of all heads that head 1 reads through.
        """
        if compiled is not None:
            return compiled(self, input_ids, positions, visible, cache.starts, list(cache.layers.values()))
        return self.read_rows(input_ids, positions, visible, cache)

    def read_rows(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, cache: RowCache | FixedRows
    ) -> tuple[Tensor, list[Tensor]]:
        """`step` with any cache."""
        mask = cache.visible(visible)
        z = self.read(input_ids, positions, mask, cache)
        last = self.num_read_heads
        found = dict(self.run_heads(z, range(1, last + 1), positions, mask, cache))
        return z, [found[i] for i in range(1, last + 1)]

    def _as_attention_mask(self, mask: Tensor | None, num_rows: int) -> Tensor | None:
        """What the blocks take: nothing where their own causal kernel will do."""
        eager = self.trunk.config._attn_implementation == "eager"
        if mask is None:
            if not eager:
                return None
            mask = torch.ones(1, 1, num_rows, num_rows, dtype=torch.bool, device=self.device).tril()
        return added_mask(mask, self.dtype) if eager else mask

    def finish(self, states: Tensor) -> Tensor:
        """Head states (..., H) -> what the unembedding reads (..., D)."""
        x = states if self.final_layer_norm is None else self.final_layer_norm(states)
        return x if self.project_out is None else self.project_out(x)

    def unembedding(self, i: int) -> Tensor:
        """Head i's vocabulary matrix (V, D)."""
        return own_weight(self.get_input_embeddings() if self.unembeddings is None else self.unembeddings[i - 1])
