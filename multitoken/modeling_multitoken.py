"""Multi-token language model: one OPT trunk, n heads, one unembedding (arXiv 2404.19737, section 2).

B texts or windows, L tokens, D width, V vocabulary, n heads, M positions that predict something, R rows of a step.

    </s> x1 .. xL (B,L+1) -> trunk -> (B,L+1,D) -> head i -> final norm (B,L+1,D) -> unembedding -> V
    position t of head i predicts x_{t+i}: head 1 alone is an ordinary language model.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import OPTForCausalLM, OPTModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers import initialization as init
from transformers.models.opt.modeling_opt import OPTDecoderLayer
from transformers.utils import ModelOutput, cached_file

from lmbase.modeling.attention import use_fast_attention
from lmbase.modeling.cache import FixedRows, RowCache
from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.losses import VocabularyLoss, token_nats, vocabulary_loss
from lmbase.modeling.token_lm import DocumentNats, score_tokens
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.generation_multitoken import MultiTokenGenerationMixin
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
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None


@dataclass
class Windows:
    """What is read and what is predicted of B windows."""

    input_ids: Tensor  # (B, L+1) </s> x1 .. xL
    targets: Tensor  # (B, L+1) x1 .. xL and, where a window holds its text's end, </s>
    num_targets: Tensor  # (B, 1)
    document_ids: Tensor | None  # (B, L+1) of the inputs, where texts are packed

    def of_head(self, i: int) -> tuple[Tensor, Tensor]:
        """Targets of head i (B, L+1) and where there are any: position t predicts the i-th token after it."""
        index = torch.arange(self.targets.shape[1], device=self.targets.device)[None]  # (1,L+1)
        mask = index + i - 1 < self.num_targets
        if self.document_ids is not None:  # the last input before a target must be of the same text
            mask &= self.document_ids == self.document_ids.roll(1 - i, dims=1)
        return self.targets.roll(1 - i, dims=1), mask


class _Part(NamedTuple):
    """M predictions of a head, alone or after the token before."""

    name: str  # of their loss
    head: int
    hidden: Tensor  # (M,D) as the unembedding reads it
    targets: Tensor  # (M,)


class MultiTokenLMPreTrainedModel(PreTrainedModel):
    config: MultiTokenLMConfig
    config_class = MultiTokenLMConfig
    base_model_prefix = "multi_token_lm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["OPTDecoderLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=0.0 if getattr(module, "starts_silent", False) else INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)


class MultiTokenLM(MultiTokenGenerationMixin, MultiTokenLMPreTrainedModel):
    """n heads on one trunk. Text methods need `tokenizer`, which `from_pretrained` loads with the weights."""

    def __init__(self, config: MultiTokenLMConfig):
        config.check()
        super().__init__(config)
        self.trunk = OPTModel(config.trunk)
        use_fast_attention(self.trunk)
        decoder, n = self.trunk.decoder, config.num_future_tokens
        # Heads read the trunk as a further layer would, and share what comes after the last layer.
        self.final_layer_norm: nn.Module | None = decoder.final_layer_norm
        self.project_out: nn.Module | None = decoder.project_out
        decoder.final_layer_norm = decoder.project_out = None  # type: ignore[assignment]
        width, first = config.trunk.hidden_size, config.trunk.num_hidden_layers
        self.heads = nn.ModuleList(
            nn.Linear(width, width) if config.head_kind == "linear" else OPTDecoderLayer(decoder.config, first + i)
            for i in range(n)
        )
        table = decoder.embed_tokens.weight
        own = (nn.Linear(table.shape[1], table.shape[0], bias=False) for _ in range(n))
        self.unembeddings = nn.ModuleList(own) if config.own_unembeddings else None
        num_transitions = (n - 1) * config.draft_transitions
        self.draft_transitions = nn.ModuleList(Transition(table.shape[1]) for _ in range(num_transitions))
        self.num_active_heads = n  # a curriculum trains the first ones only
        self.trains_in_part = False  # says that it does, for training in several processes
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.post_init()
        self._freeze()

    def _freeze(self) -> None:
        if self.config.train_transitions_only:
            self.requires_grad_(False)
            self.draft_transitions.requires_grad_(True)

    def train(self, mode: bool = True) -> "MultiTokenLM":
        super().train(mode)
        if self.config.train_transitions_only:  # what does not learn drops nothing out
            self.trunk.eval()
            self.heads.eval()
        return self

    @classmethod
    def from_opt(
        cls, opt: OPTForCausalLM, num_future_tokens: int = 4, head_kind: str = "parallel", **options
    ) -> "MultiTokenLM":
        """n heads on a pretrained OPT, which is copied; head 1 alone is that OPT.

        Its last block becomes head 1 and the further heads start as copies of it. `linear`: all blocks stay, and heads
        start as the identity. `anticausal`: heads 2 to n, which head 1 reads through, start as copies that add nothing.

        Args:
            options: further fields of MultiTokenLMConfig.
        """
        config = MultiTokenLMConfig.matching(opt.config, 1, head_kind, **options)
        config.num_future_tokens = num_future_tokens
        tied = opt.get_output_embeddings().weight is opt.get_input_embeddings().weight
        config.own_unembeddings = config.own_unembeddings or not tied
        if head_kind == "anticausal" and num_future_tokens > 1 and not opt.config.do_layer_norm_before:
            raise ValueError(
                "head_kind='anticausal' on an OPT that normalises after its layers (350M): a further block below "
                "head 1 cannot start without effect, so head 1 would not be that OPT. Choose another kind."
            )
        model = cls(config)
        weights = opt.model.state_dict()
        joints = ("decoder.final_layer_norm.", "decoder.project_out.")
        own = {name.removeprefix("decoder."): w for name, w in weights.items() if name.startswith(joints)}
        last = f"decoder.layers.{config.trunk.num_hidden_layers}."  # none for linear heads
        block = {name.removeprefix(last): w for name, w in weights.items() if name.startswith(last)}
        trunk = {name: w for name, w in weights.items() if not name.startswith((last, *joints))}
        model.trunk.load_state_dict(trunk)
        model.load_state_dict(own, strict=False)
        with torch.no_grad():
            for i, head in enumerate(model.heads):
                if isinstance(head, nn.Linear):
                    head.weight.copy_(torch.eye(len(head.weight)))
                    head.bias.zero_()
                    continue
                head.load_state_dict(block)
                if head_kind == "anticausal" and i > 0:
                    for name, weight in head.named_parameters():
                        if name.startswith(("self_attn.out_proj.", "fc2.")):
                            weight.zero_()
            if model.unembeddings is not None:
                for i in range(1, num_future_tokens + 1):
                    model.unembedding(i).copy_(opt.get_output_embeddings().weight)
        model.generation_config.update(**{k: getattr(config, k) for k in ("pad_token_id", "eos_token_id")})
        return model.to(opt.dtype).eval()  # type: ignore[arg-type]

    def to_opt(self) -> OPTForCausalLM:
        """Trunk and head 1 as a plain OPT, copied: for everything that reads OPT."""
        if self.config.head_kind == "linear" or (self.config.head_kind == "anticausal" and len(self.heads) > 1):
            raise ValueError(
                f"Head 1 of kind {self.config.head_kind!r} is no OPT block on the trunk: there is no OPT of that shape."
            )
        config = copy.deepcopy(self.config.trunk)
        config.num_hidden_layers += 1
        config.tie_word_embeddings = self.unembeddings is None
        opt = OPTForCausalLM(config)
        last = f"model.decoder.layers.{config.num_hidden_layers - 1}."
        own = self.state_dict()
        weights = {f"model.{n.removeprefix('trunk.')}": w for n, w in own.items() if n.startswith("trunk.")}
        weights |= {last + n.removeprefix("heads.0."): w for n, w in own.items() if n.startswith("heads.0.")}
        joints = ("final_layer_norm.", "project_out.")
        weights |= {f"model.decoder.{n}": w for n, w in own.items() if n.startswith(joints)}
        table = self.unembedding(1)
        weights["lm_head.weight"] = table
        opt.load_state_dict(weights)
        return opt.to(self.dtype).eval()  # type: ignore[arg-type]

    def with_heads(self, num_future_tokens: int) -> "MultiTokenLM":
        """A copy with the first heads only, to finetune with one after pretraining with several."""
        n = self.config.num_future_tokens
        if not 1 <= num_future_tokens <= n:
            raise ValueError(f"num_future_tokens={num_future_tokens}: this model has heads 1 to {n}.")
        if self.config.head_kind == "anticausal" and num_future_tokens < n:
            raise ValueError("Head 1 of kind 'anticausal' reads through all others: none can be taken off.")
        config = copy.deepcopy(self.config)
        config.num_future_tokens, config.draft_tree = num_future_tokens, None
        config.head_weights = config.head_weights and config.head_weights[:num_future_tokens]
        if num_future_tokens == 1:
            config.draft_transitions, config.train_transitions_only, config.draft_targets = False, False, "text"
        model = type(self)(config)
        kept = {k: v for k, v in self.state_dict().items() if k in model.state_dict()}
        model.load_state_dict(kept)
        model.tokenizer = self.tokenizer
        return model.to(self.dtype).train(self.training)  # type: ignore[arg-type]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.trunk.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.trunk.set_input_embeddings(value)

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        """`heads` is trained on; the others are its parts, to look at."""
        return {"heads": 1.0, **dict.fromkeys(self._names, 0.0)}

    def loss_counts(
        self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, document_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        windows = self._windows(input_ids, attention_mask, ends, document_ids)
        targets = [windows.of_head(i)[1].sum() for i in range(1, len(self.heads) + 1)]
        counts = dict(zip(self._names, targets + targets[1:], strict=False))  # the last are those of transitions
        return {"heads": counts["token"], **counts}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, document_ids: Tensor | None = None, **kwargs
    ) -> MultiTokenLMOutput:
        """
        Args:
            input_ids, attention_mask: (B, L) text tokens of a window, padded on the right.
            ends: (B,) True where the window holds its text's end.
            document_ids: (B, L) which text each token is of, where several are packed into a row, each but the first
                with an opening </s> of its own (which is also what the text before it ends with).
        """
        windows = self._windows(input_ids, attention_mask, ends, document_ids)
        parts: list[_Part] = []
        masks = []
        for i, states in self._all_states(windows, self.num_active_heads):
            of_head, mask = windows.of_head(i)
            parts.append(_Part(self._names[i - 1], i, self.finish(states[mask]), of_head[mask]))
            masks.append(mask)
        results = self._part_losses(parts)
        if self.draft_transitions and len(parts) > 1:
            targets = windows.targets
            if self.config.draft_targets == "greedy":
                targets = targets.masked_scatter(masks[0], results[0].row_choice[: len(parts[0].targets)])
            after = self._after(parts, masks, windows, targets)
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
        loss = losses["heads"] / max(len(parts[0].targets), 1)
        return MultiTokenLMOutput(loss=loss, losses=losses, correct=correct)

    def _after(self, parts: "list[_Part]", masks: list[Tensor], windows: Windows, targets: Tensor) -> "list[_Part]":
        """What the heads' transitions make of the true token before each target.

        Args: masks: (B, L+1) where each head has targets; targets: (B, L+1) of head 1.
        """
        found = []
        for part, mask in list(zip(parts, masks, strict=True))[1:]:
            # Heads go on to say what is likely after whatever token: their best choices are the candidates.
            hidden, i = part.hidden.detach(), part.head
            embeds = self.get_input_embeddings()(windows.of_head(i - 1)[0][mask]).detach()
            moved = hidden + self.draft_transitions[i - 2](embeds, hidden)
            found.append(_Part(f"after_{i}", i, moved, targets.roll(1 - i, dims=1)[mask]))
        return found

    def _part_losses(self, parts: "list[_Part]", trains_table: bool = True) -> list[VocabularyLoss]:
        """Of all parts in one; of each, where heads have vocabularies of their own."""
        # One sum over all heads: its gradient with respect to the table is made chunk by chunk, in one place, so that
        # memory holds neither the heads' logits nor a table's gradient for each of them.
        weights = self.config.head_weights or [1.0] * len(self.heads)
        results = []
        for group in [parts] if self.unembeddings is None else [[part] for part in parts]:
            rows = [h.new_full((len(h),), weights[i - 1], dtype=torch.float32) for _, i, h, _ in group]
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

    def nats(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, first: Tensor | None = None) -> Tensor:
        """-log p of every target under head 1, in fp32, (B, L+1); 0 where there is none.

        Args: as for `forward`;
            first: (B,) the first target to score, those before it are context and get zeros; default: 0.
        """
        return next(self.nats_by_head(input_ids, attention_mask, ends, first, num_heads=1))

    def nats_by_head(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor,
        first: Tensor | None = None,
        num_heads: int | None = None,
    ) -> Iterator[Tensor]:
        """For each head in turn -log p of its targets (B, L+1), at the position that predicts them."""
        windows = self._windows(input_ids, attention_mask, ends, None)
        for i, states in self._all_states(windows, len(self.heads)):
            if i > (num_heads or len(self.heads)):
                continue
            targets, mask = windows.of_head(i)
            if first is not None:
                mask &= torch.arange(mask.shape[1], device=mask.device)[None] >= first[:, None]
            values = token_nats(self.finish(states[mask]), self.unembedding(i), targets[mask])
            yield torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Head 1's logits (B, L, V) after each of (B, L) ids, which open with </s>, padded on the left or right."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(*[input_ids.shape[1]] * 2, dtype=torch.bool, device=input_ids.device).tril()
        # a padded position sees itself: a row without anything to look at has no softmax
        seen = causal & attention_mask[:, None, :].bool() | torch.eye(
            len(causal), dtype=torch.bool, device=causal.device
        )
        mask = None if attention_mask.all() else seen[:, None]
        z = self.read(input_ids, positions, mask)
        states = dict(self.run_heads(z, 1, len(self.heads) if self.config.head_kind == "anticausal" else 1, mask))[1]
        return self.finish(states) @ self.unembedding(1).T

    def score(self, texts: Sequence[str]) -> list[DocumentNats]:
        """-log p of each text and of its end under head 1, in windows that overlap by half.

        Raises:
            ValueError: a lone surrogate (with its offset), or a model without tokenizer.
        """
        return score_tokens(self, self._needed_tokenizer(), texts)

    def flops(self, num_tokens: int, context: int, num_heads: int | None = None) -> float:
        """Of a forward pass over so many tokens in windows of `context` through the first heads (default: all), by
        formula."""
        config, n = self.config.trunk, num_heads or len(self.heads)
        heads = self.heads if self.config.head_kind == "anticausal" else self.heads[:n]  # there head 1 reads them all
        blocks = config.num_hidden_layers + (0 if self.config.head_kind == "linear" else len(heads))
        attention = attention_flops(config.hidden_size, blocks, context / 2)
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

    def _windows(self, input_ids: Tensor, attention_mask: Tensor, ends: Tensor, document_ids: Tensor | None) -> Windows:
        lengths = attention_mask.sum(1, keepdim=True)  # (B,1)
        index = torch.arange(input_ids.shape[1] + 1, device=input_ids.device)[None]  # (1,L+1)
        eos = cast(int, self.config.eos_token_id)
        targets = torch.where(index == lengths, eos, F.pad(input_ids, (0, 1)))
        inputs = F.pad(input_ids, (1, 0), value=self.config.bos_token_id)  # (B,L+1)
        if document_ids is not None:
            document_ids = torch.cat([document_ids[:, :1], document_ids], dim=1)
        return Windows(inputs, targets, lengths + ends[:, None], document_ids)

    def _all_states(self, windows: Windows, num_heads: int) -> Iterator[tuple[int, Tensor]]:
        """Head number and states (B, L+1, D) before the final norm, head 1 first."""
        positions = mask = None
        length = windows.input_ids.shape[1]
        if windows.document_ids is not None:
            same = windows.document_ids[:, :, None] == windows.document_ids[:, None, :]  # (B,L+1,L+1)
            mask = (same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril())[:, None]
            positions = mask[:, 0].sum(-1) - 1  # (B,L+1) counted within each text
        # Windows are padded on the right, where a causal mask hides what follows: no other is needed.
        z = self.read(windows.input_ids, positions, mask)
        found = self.run_heads(z, 1, num_heads, mask)
        yield from sorted(found) if self.config.head_kind == "anticausal" else found

    def read(
        self,
        input_ids: Tensor,
        positions: Tensor | None,
        mask: Tensor | None,
        cache: RowCache | FixedRows | None = None,
    ) -> Tensor:
        """The trunk: ids (B, R) -> states (B, R, D) that heads read.

        Args:
            positions: (B, R); default: 0, 1, 2 ...
            mask: (B, 1, R, C) bool, what each row sees; default: itself and those before it.
        """
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.trunk(
            input_ids=input_ids,
            attention_mask=self._as_attention_mask(mask, input_ids.shape[1]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def run_heads(
        self, x: Tensor, first: int, last: int, mask: Tensor | None, cache: RowCache | FixedRows | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Numbers and states (B, R, D) of heads `first` to `last`, in the order in which they read each other.

        Args:
            x: what the earliest of them reads: the trunk's states, or for `causal` heads those of head first - 1.
        """
        prepared = self._as_attention_mask(mask, x.shape[1])
        numbers = range(first, last + 1)
        for i in reversed(numbers) if self.config.head_kind == "anticausal" else numbers:
            head = self.heads[i - 1]
            y = head(x) if isinstance(head, nn.Linear) else head(x, attention_mask=prepared, past_key_values=cache)
            yield i, y
            if self.config.head_kind in ("causal", "anticausal"):
                x = y

    def step(
        self,
        input_ids: Tensor,
        positions: Tensor | None,
        visible: Tensor,
        cache: RowCache,
        compiled: Callable | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Read R more ids of each text (B, R) with a cache, which the caller then tells what to `keep`.

        Args:
            positions: (B, R); default: those after each text's length.
            visible: (R, R) bool, what each row sees of the others.
            compiled: what reads them in a cache of fixed size, see `compiled_step`.

        Returns:
            the trunk's states (B, R, D), and those of head 1 and of all heads that head 1 reads through.
        """
        if positions is None:
            positions = cache.starts[:, None] + torch.arange(input_ids.shape[1], device=input_ids.device)
        if compiled is not None:
            return compiled(self, input_ids, positions, visible, cache.starts, list(cache.layers.values()))
        return self.read_rows(input_ids, positions, visible, cache)

    def read_rows(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, cache: RowCache | FixedRows
    ) -> tuple[Tensor, list[Tensor]]:
        """`step` with any cache."""
        mask = cache.visible(visible)
        z = self.read(input_ids, positions, mask, cache)
        last = len(self.heads) if self.config.head_kind == "anticausal" else 1
        found = dict(self.run_heads(z, 1, last, mask, cache))
        return z, [found[i] for i in range(1, last + 1)]

    def _as_attention_mask(self, mask: Tensor | None, num_rows: int) -> Tensor | None:
        """What OPT's layers take: nothing where their own causal kernel will do."""
        eager = self.trunk.config._attn_implementation == "eager"
        if mask is None:
            if not eager:
                return None
            mask = torch.ones(1, 1, num_rows, num_rows, dtype=torch.bool, device=self.device).tril()
        return mask if not eager else torch.zeros_like(mask, dtype=self.dtype).masked_fill(~mask, -torch.inf)

    def finish(self, states: Tensor) -> Tensor:
        """Head states (..., D) -> what the unembedding reads (..., word_embed_proj_dim)."""
        x = states if self.final_layer_norm is None else self.final_layer_norm(states)
        return x if self.project_out is None else self.project_out(x)

    def unembedding(self, i: int) -> Tensor:
        """Head i's vocabulary matrix (V, word_embed_proj_dim)."""
        if self.unembeddings is None:
            return self.trunk.decoder.embed_tokens.weight
        return cast(nn.Linear, self.unembeddings[i - 1]).weight

    # -- text ----------------------------------------------------------------------------------------------------------

    def _needed_tokenizer(self) -> PreTrainedTokenizerFast:
        if self.tokenizer is None:
            raise ValueError(
                "This MultiTokenLM has no tokenizer, so it cannot read text: load it with from_pretrained from a "
                "folder that has one, or set model.tokenizer."
            )
        return self.tokenizer

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:  # type: ignore[override]
        super().save_pretrained(save_directory, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers, but never from a pickle; the tokenizer comes from where the weights do."""
        kwargs["use_safetensors"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model._freeze()  # loading makes new parameters, which all want gradients
        folder = str(pretrained_model_name_or_path)
        if cached_file(folder, "tokenizer.json", _raise_exceptions_for_missing_entries=False):
            tokenizer = load_tokenizer(folder)
            if vocabulary_size(tokenizer) > model.config.vocab_size:
                raise ValueError(
                    f"The tokenizer in {folder!r} has {vocabulary_size(tokenizer)} ids and the model "
                    f"{model.config.vocab_size} rows: it is another model's tokenizer."
                )
            model.tokenizer = tokenizer
        return loaded
