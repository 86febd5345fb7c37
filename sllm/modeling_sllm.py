"""SLLM: a sentence encoder, an OPT trunk over sentence vectors, a sentence decoder (arXiv 2408.00655, section 4).

B texts or windows, S sentences of one, T tokens of a sentence, N real sentences (all texts' flattened), D width,
K trunk states that the decoder reads, M memory vectors.

    input_ids (B,S,T) -> N real sentences -> encoder (N,D) -> start state first (B,S+1,D) -> trunk -> states (B,S+1,D)
    state k (0..S) predicts sentence k+1 through the decoder, and the flag "the text stops here" through the stop head.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import OPTForCausalLM, OPTModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from lmbase.modeling.attention import use_fast_attention
from lmbase.modeling.flops import attention_flops, linear_flops
from lmbase.modeling.int8 import Int8Linear
from lmbase.modeling.losses import token_nats, vocabulary_loss
from lmbase.text.text_model import ProcessorMixin
from multitoken.transitions import Transition
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.grouping import PackedTokens, length_groups
from sentencevae.modeling_sentencevae import (
    DecoderLayer,
    LayerMemory,
    Memories,
    SentenceTargets,
    SentenceVAE,
    group_targets,
    init_layer,
    memory_keys_values,
)
from sllm.configuration_sllm import SLLMConfig
from sllm.generation_sllm import SentenceGenerationMixin
from sllm.reading import StepwiseMixin, latest
from sllm.scoring import Scores, score_texts


@dataclass
class SLLMOutput(ModelOutput):
    """
    Args:
        loss: () mean training loss per target token.
        losses: named sums in nats: `token` and `stop`, with drafting heads also `drafts`, their sum, and its parts
            `head_2` .. `head_n`, with transitions `after_2` .. `after_n` (a head's token, the one before it
            known); `loss_counts` has what each is divided by.
        correct: () target tokens that were the most probable token.
        stop_logits: (B, S+1) log-odds that the text stops after k sentences.
        states: (B, S+1, D) trunk states; state k predicts sentence k+1.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None
    stop_logits: Tensor | None = None
    states: Tensor | None = None


@dataclass
class TextNats:
    """-log p of everything that an SLLM predicts of B texts; 0 where there is nothing to predict."""

    token: Tensor  # (B, S, T+1) tokens of each sentence and its end mark
    stop: Tensor  # (B, S+1) the flag after k sentences


@dataclass
class Sentences:
    """N real sentences of a batch, read, and where they stand: P = N places in its texts, or more in windows of them
    that overlap."""

    rows: Tensor  # (P,) text or window
    places: Tensor  # (P,) number in it, from 0
    numbers: Tensor  # (P,) which of the N sentences stands there
    ids: Tensor  # (N, T)
    mask: Tensor  # (N, T)
    tokens: PackedTokens
    starts: Tensor  # (N,) tokens of the batch before each sentence, padding not counted
    embeds: Tensor  # (N, D)
    token_states: Tensor  # (L, D) of the encoder, for all L tokens of the batch one after another


@dataclass
class Decoded:
    """Some sentences (n,), decoded with their true tokens."""

    index: Tensor  # (n,) which of the P places; those after the first `num_real` are repeated and predict nothing
    num_real: int
    states: Tensor  # (n, T+1, D) of the decoder before its last norm
    hidden: Tensor  # (n, T+1, D) after it
    cut: SentenceTargets
    vectors: Tensor  # (n, D) what the decoder reads as sentence vectors


class SLLMPreTrainedModel(PreTrainedModel):
    config: SLLMConfig
    config_class = SLLMConfig
    base_model_prefix = "sllm"
    _supports_sdpa = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer", "OPTDecoderLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SLLM):
            init.normal_(module.start_state, std=self.config.autoencoder.init_std)
            if module.memory_kinds is not None:
                init.normal_(module.memory_kinds, std=self.config.autoencoder.init_std)
            init.eye_(module.sentence_in.weight)
            init.zeros_(module.sentence_in.bias)
            # Starts silent: the decoder first writes as it does without a sentence vector, not what a strange one says.
            init.zeros_(module.sentence_out.weight)
            init.zeros_(module.sentence_out.bias)
            init.zeros_(module.stop_head.weight)
            init.zeros_(module.stop_head.bias)
            return
        # Layers of drafting heads; the parts of the model look after their own.
        init_layer(module, 0.0 if getattr(module, "starts_silent", False) else self.config.autoencoder.init_std)


class DraftHead(DecoderLayer):
    """A block on the decoder's states that predicts a later token; in the beginning it says what head 1 says."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__(config)
        for name, module in self.named_modules():
            if name in ("sentence_proj", "attention.out_proj", "memory_attention.out_proj", "ffn.fc2"):
                module.starts_silent = True


class ResidualDraftHead(nn.Module):
    """One linear layer on the decoder's state; in the beginning it says what head 1 says. It reads nothing else, so it
    needs no cache."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj.starts_silent = True  # type: ignore[assignment]
        self.act = ACT2FN["silu"]

    def forward(self, x: Tensor, *_) -> Tensor:
        return x + self.act(self.proj(x))


class SLLM(ProcessorMixin, SentenceGenerationMixin, StepwiseMixin, SLLMPreTrainedModel):
    """Language model whose trunk reads and predicts one vector per sentence."""

    _tied_weights_keys = {"trunk.decoder.embed_tokens.weight": "autoencoder.embed_tokens.weight"}

    def __init__(self, config: SLLMConfig):
        config.check()
        super().__init__(config)
        width = config.hidden_size
        self.autoencoder = SentenceVAE(config.autoencoder)
        self.trunk = OPTModel(config.trunk)
        use_fast_attention(self.trunk)
        self.start_state = nn.Parameter(torch.empty(width))
        self.sentence_in = nn.Linear(width, width)  # from the encoder's scale to that of the trunk's embeddings
        self.sentence_out = nn.Linear(width, width)  # from the trunk's states to what the decoder reads
        self.stop_head = nn.Linear(width, 1)
        # Tells states from tokens in the decoder's memory; without one it would be unused, which DDP does not allow.
        self.memory_kinds = nn.Parameter(torch.empty(2, width)) if config.autoencoder.memory_size else None
        head = DraftHead if config.draft_head_kind == "block" else ResidualDraftHead
        num_drafts = config.num_future_tokens - 1
        self.draft_heads = nn.ModuleList(head(config.autoencoder) for _ in range(num_drafts))
        self.draft_transitions = nn.ModuleList(Transition(width) for _ in range(num_drafts * config.draft_transitions))
        self.int8_table: Int8Linear | None = None  # a copy of the vocabulary table to write with, see `write_in_int8`
        self.post_init()
        self._freeze()

    @classmethod
    def graft(cls, vae: SentenceVAE, opt: OPTForCausalLM | OPTModel, **options) -> "SLLM":
        """Join a pretrained autoencoder and a pretrained OPT; both are copied.

        Args:
            options: fields of SLLMConfig beside the two nested configurations.

        Raises:
            ValueError: widths or vocabularies that do not fit, or a trunk too short for `max_sentences`.
        """
        autoencoder_config = type(vae.config).from_dict(vae.config.to_dict())
        trunk_config = type(opt.config).from_dict(opt.config.to_dict())
        model = cls(SLLMConfig(autoencoder=autoencoder_config, trunk=trunk_config, **options))
        missing, _ = model.autoencoder.load_state_dict(vae.state_dict(), strict=False)
        assert all("memory" in name for name in missing), missing
        for layer in cast(Iterable[DecoderLayer], model.autoencoder.decoder.layers):
            if model.config.autoencoder.memory_size:  # starts silent, as sentence_out does
                nn.init.zeros_(layer.memory_attention.out_proj.weight)
        base = opt.model if isinstance(opt, OPTForCausalLM) else opt
        trunk_weights = {k: v for k, v in base.state_dict().items() if "embed_tokens" not in k}
        missing, unexpected = model.trunk.load_state_dict(trunk_weights, strict=False)
        assert all("embed_tokens" in name for name in missing), missing
        assert not unexpected, unexpected
        table = base.get_input_embeddings().weight
        with torch.no_grad():
            model.sentence_in.weight.copy_(torch.eye(len(model.start_state)) * table.float().std())
            model.start_state.copy_(table[opt.config.bos_token_id])
        model.generation_config.update(**{k: getattr(model.config, k) for k in ("pad_token_id", "eos_token_id")})
        if vae.has_processor:
            model.processor = vae.processor
        return model.to(vae.dtype).eval()  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        model._freeze()  # loading makes new parameters, which all want gradients
        return loaded

    def _freeze(self) -> None:
        if self.config.train_draft_heads_only:
            self.requires_grad_(False)
            self.draft_heads.requires_grad_(True)
            self.draft_transitions.requires_grad_(True)
            return
        kept = self.config.freeze_trunk_layers
        if kept is not None:
            layers = self.trunk.decoder.layers
            self.trunk.requires_grad_(False)
            for layer in [*layers[:kept], *layers[len(layers) - kept :]]:
                layer.requires_grad_(True)
        if self.config.freeze_autoencoder:
            self.autoencoder.requires_grad_(False)
            for name, weight in self.autoencoder.named_parameters():
                if "memory_" in name:  # the memory is a joint: it came with the graft
                    weight.requires_grad_(True)
        else:
            self.autoencoder.embed_tokens.requires_grad_(True)  # shared with the trunk, which does not read tokens

    def train(self, mode: bool = True) -> "SLLM":
        super().train(mode)
        if self.config.train_draft_heads_only:  # what does not learn drops nothing out
            self.autoencoder.eval()
            self.trunk.eval()
        return self

    @property
    def heads_attend(self) -> bool:
        """Drafting heads read earlier positions, and so need a cache."""
        return self.config.draft_head_kind == "block"

    def get_input_embeddings(self) -> nn.Embedding:
        return self.autoencoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.autoencoder.embed_tokens = value
        self.trunk.set_input_embeddings(value)

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {"token": 1.0, "stop": self.config.stop_weight}
        return weights | {"drafts": 1.0, **dict.fromkeys(self._draft_names, 0.0)} if self._draft_names else weights

    @property
    def _draft_names(self) -> list[str]:
        kinds = ("head", "after") if self.config.draft_transitions else ("head",)
        return [f"{kind}_{i}" for kind in kinds for i in range(2, self.config.num_future_tokens + 1)]

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor, **_) -> dict[str, Tensor]:
        """Both sums are divided by the number of target tokens: their weighted sum is -log p of the text per token."""
        lengths = attention_mask.sum(-1)  # (B, S)
        targets = (lengths + 1).clamp(max=self.config.max_sentence_tokens) * (lengths > 0)
        tokens = targets.sum()
        if not self._draft_names:
            return {"token": tokens, "stop": tokens}
        heads = {name: (targets - int(name.split("_")[1]) + 1).clamp(min=0).sum() for name in self._draft_names}
        return {"token": tokens, "stop": tokens, "drafts": tokens, **heads}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        sentence_mask: Tensor,
        continues: Tensor | None = None,
        **kwargs,
    ) -> SLLMOutput:
        """Predict every sentence of every text from the sentences before it.

        Args:
            input_ids, attention_mask: (B, S, T) sentences without end marks, padded on the right.
            sentence_mask: (B, S) True on real sentences.
            continues: (B,) True where the text goes on after these sentences (a window); default: nowhere.
        """
        sentences = self._read(input_ids, attention_mask, sentence_mask)
        states = self._trunk_states(sentences, sentence_mask)  # (B,S+1,D)
        # Seeded with nothing: a batch of empty texts has a loss, too, that of its stop flags.
        hidden, targets = [states.new_zeros(0, states.shape[-1])], [input_ids.new_zeros(0)]
        first = [sentence_mask.new_zeros(0)]
        memory = self.memory_of_heads(sentences, states)
        ahead: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in self.draft_heads]
        masks = []
        for decoded in self._decode(sentences, states):
            cut = decoded.cut
            hidden.append(decoded.hidden[cut.mask])
            targets.append(cut.targets[cut.mask])
            first.append(cut.first[cut.mask])
            masks.append(cut.mask)
            for of_head, found in zip(ahead, self._look_ahead(decoded, sentences, states, memory), strict=True):
                of_head.append(found)
        result = vocabulary_loss(
            torch.cat(hidden),
            self.autoencoder.embed_tokens.weight,
            torch.cat(targets),
            closed_rows=torch.cat(first),
            closed_id=self.config.eos_token_id,
            focal_gamma=self.config.autoencoder.focal_gamma if self.training else 0.0,
        )
        stop_logits, stop = self._stop(states, sentence_mask, continues)
        losses = {"token": result.loss, "stop": stop.sum()}
        if self.draft_heads:
            if self.config.draft_targets == "greedy":
                choices = result.row_choice.split([len(of_group) for of_group in targets])[1:]
                for group, (mask, chosen) in enumerate(zip(masks, choices, strict=True)):
                    own = torch.zeros_like(mask, dtype=chosen.dtype).masked_scatter(mask, chosen)  # (n,T+1)
                    for i, of_head in enumerate(ahead, start=1):
                        hidden_there, _, before = of_head[group]
                        of_head[group] = hidden_there, own[:, i:][mask[:, i:]], before
            losses |= self._draft_losses(ahead)
        count = self.loss_counts(input_ids, attention_mask)["token"].clamp(min=1)
        loss = torch.stack([w * losses[name] for name, w in self.loss_weights.items()]).sum() / count
        return SLLMOutput(
            loss=loss, losses=losses, correct=result.row_correct.sum(), stop_logits=stop_logits, states=states
        )

    def nats(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        sentence_mask: Tensor,
        continues: Tensor | None = None,
        wanted: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> TextNats:
        """-log p of every token, end mark and flag, in fp32. Differentiable.

        Args: as for `forward`;
            wanted: (B, S) sentences to score, the others are context and get zeros; default: all.
            windows: (B', 3) rows (text, start, stop): sentences [start, stop) of a text, scored as a text of their own.
                Windows that overlap cost less than such texts: what they share is encoded once. The B and S of
                `continues`, `wanted` and of the result are then those of the windows.
        """
        sentences = self._read(input_ids, attention_mask, sentence_mask)
        if windows is not None:
            sentences, sentence_mask = self._place(sentences, sentence_mask, windows)
        states = self._trunk_states(sentences, sentence_mask)
        (b, s), t = sentence_mask.shape, input_ids.shape[-1]
        token = torch.zeros(b, s, t + 1, device=states.device)
        for decoded in self._decode(sentences, states, wanted):
            index, cut = decoded.index, decoded.cut
            values = token_nats(
                decoded.hidden[cut.mask],
                self.autoencoder.embed_tokens.weight,
                cut.targets[cut.mask],
                closed_rows=cut.first[cut.mask],
                closed_id=self.config.eos_token_id,
            )
            part = torch.zeros(cut.mask.shape, device=states.device).masked_scatter(cut.mask, values)
            per_sentence = F.pad(part, (0, t + 1 - part.shape[1]))[: decoded.num_real]  # (n,T+1), or cut to it
            index = index[: decoded.num_real]
            token = token.index_put((sentences.rows[index], sentences.places[index]), per_sentence)
        return TextNats(token, self._stop(states, sentence_mask, continues)[1])

    def flops(self, num_tokens: int, num_sentences: int) -> float:
        """Of a forward pass over so many tokens and sentences, by formula."""
        config = self.config.trunk
        attention = attention_flops(config.hidden_size, config.num_hidden_layers, self.config.max_sentences / 2)
        joints = sum(linear_flops(joint) for joint in (self.sentence_in, self.sentence_out))
        trunk = linear_flops(self.trunk) + joints + attention
        table = 2.0 * self.autoencoder.embed_tokens.weight.numel()
        further = [*self.draft_heads, *self.draft_transitions]
        heads = sum(map(linear_flops, further)) + len(further) * table
        written = num_tokens + num_sentences
        return self.autoencoder.flops(num_tokens, num_sentences) + num_sentences * trunk + written * heads

    # -- the parts, in the order of a sample's way ---------------------------------------------------------------------

    def _read(self, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor) -> Sentences:
        rows, places = sentence_mask.nonzero(as_tuple=True)  # (N,)
        ids, mask = input_ids[rows, places], attention_mask[rows, places]  # (N,T)
        tokens = self.autoencoder.pack(ids, mask)
        embeds, token_states = self.autoencoder.encode_packed(tokens, ids, mask)  # (N,D), (L,D)
        lengths = mask.sum(1)
        numbers = torch.arange(len(rows), device=rows.device)
        return Sentences(rows, places, numbers, ids, mask, tokens, lengths.cumsum(0) - lengths, embeds, token_states)

    def _place(self, sentences: Sentences, sentence_mask: Tensor, windows: Tensor) -> tuple[Sentences, Tensor]:
        """The same sentences standing in windows (B',3), and the windows' sentence mask (B',S')."""
        text, start, stop = windows.unbind(1)
        counts = sentence_mask.sum(1)  # (B,)
        first = (counts.cumsum(0) - counts)[text] + start  # (B',) number of each window's first sentence
        width = max(1, int((stop - start).max()))
        mask = torch.arange(width, device=windows.device) < (stop - start)[:, None]  # (B',S')
        rows, places = mask.nonzero(as_tuple=True)
        return replace(sentences, rows=rows, places=places, numbers=first[rows] + places), mask

    def _trunk_inputs(self, sentences: Sentences, sentence_mask: Tensor) -> Tensor:
        b, s = sentence_mask.shape
        embeds = self.sentence_in(sentences.embeds)  # (N,D)
        placed = embeds[sentences.numbers]  # (P,D)
        body = embeds.new_zeros(b, s, embeds.shape[-1]).index_put((sentences.rows, sentences.places), placed)
        return torch.cat([self.start_state.to(embeds.dtype).expand(b, 1, -1), body], dim=1)  # (B,S+1,D)

    def _trunk_states(self, sentences: Sentences, sentence_mask: Tensor) -> Tensor:
        return self.trunk(
            inputs_embeds=self._trunk_inputs(sentences, sentence_mask),
            attention_mask=F.pad(sentence_mask, (1, 0), value=True).long(),
            use_cache=False,
        ).last_hidden_state  # (B,S+1,D)

    def _decode(self, sentences: Sentences, states: Tensor, wanted: Tensor | None = None) -> Iterator[Decoded]:
        """Teacher-forced decoding in groups of like length."""
        chosen = torch.arange(len(sentences.rows), device=states.device)
        if wanted is not None:
            chosen = chosen[wanted[sentences.rows, sentences.places]]
        if len(chosen) == 0:
            return
        decoder = self.autoencoder.decoder
        memory = self._memory_of_all(decoder.layers, sentences, states)
        tokens, most = sentences.tokens, self.config.max_sentence_tokens
        number = sentences.numbers[chosen]
        for group in length_groups(sentences.ids[number], sentences.mask[number], tokens.rows[number], most):
            index = chosen[group.index]
            state = states[sentences.rows[index], sentences.places[index]]  # (n,D): sentence k+1 is read from state k
            memories = self._memories(sentences, states, index, memory)
            vectors = self.sentence_out(state)
            decoded = decoder.states(tokens.shifted(group), vectors, memories)
            cut = group_targets(group, self.config.autoencoder)
            yield Decoded(index, group.num_real, decoded, decoder.norm(decoded), cut, vectors)

    def _look_ahead(
        self, decoded: Decoded, sentences: Sentences, states: Tensor, memory: list
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each drafting head its states (m,D), targets (m,) and the tokens before those (m,): position t predicts
        the i-th token after it."""
        cut, decoder, width = decoded.cut, self.autoencoder.decoder, decoded.states.shape[1]
        memories = self._memories(sentences, states, decoded.index, memory)
        for i, head in enumerate(self.draft_heads, start=1):
            read = decoder.reading(decoded.vectors, slice(i, i + width))
            x = head(decoded.states, read, memories[i - 1] if memories else None)  # (n,T+1,D)
            mask = cut.mask[:, i:]
            targets, before = cut.targets[:, i:][mask], cut.targets[:, i - 1 : -1][mask]
            yield decoder.norm(x[:, : mask.shape[1]][mask]), targets, before

    def memory_of_heads(self, sentences: Sentences, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `_look_ahead` reads: keys and values of drafting heads with attention."""
        return self._memory_of_all(self.draft_heads, sentences, states) if self.heads_attend else []

    def _draft_losses(self, ahead: list[list[tuple[Tensor, Tensor, Tensor]]]) -> dict[str, Tensor]:
        """Their sum, to train on, and each head's, to look at; one pass over the vocabulary for all heads."""
        embed = self.autoencoder.embed_tokens
        table = embed.weight
        nothing = torch.zeros(0, dtype=torch.long, device=table.device)
        heads = [map(torch.cat, zip(*of_head, strict=True)) for of_head in ahead if of_head]
        found = [tuple(head) for head in heads] or [(table.new_zeros(0, table.shape[1]), nothing, nothing)] * len(ahead)
        targets = torch.cat([t for _, t, _ in found])
        results = [vocabulary_loss(torch.cat([h for h, _, _ in found]), table, targets)]
        if self.draft_transitions:
            # Heads go on to say what is likely after whatever token: their best choices are the candidates.
            judged = [
                h.detach() + transition(embed(before).detach(), h.detach())
                for transition, (h, _, before) in zip(self.draft_transitions, found, strict=True)
            ]
            results.append(vocabulary_loss(torch.cat(judged), table.detach(), targets))
        sizes = [len(t) for _, t, _ in found]
        sums = [part.sum() for result in results for part in result.row_nats.split(sizes)]
        loss = torch.stack([result.loss for result in results]).sum()
        return {"drafts": loss, **dict(zip(self._draft_names, sums, strict=True))}

    def _memory_of_all(
        self, layers: nn.ModuleList, sentences: Sentences, states: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values of every state and token, computed once: (1,H,B*(S+1)+L,d)."""
        if self.memory_kinds is None or not len(layers):
            return []
        vectors = torch.cat(
            [states.flatten(0, 1) + self.memory_kinds[0], sentences.token_states + self.memory_kinds[1]]
        )
        return memory_keys_values(layers, vectors[None])

    def _memories(self, sentences: Sentences, states: Tensor, index: Tensor, memory: list) -> Memories:
        """Of all keys and values those that sentences (n,) may read: the latest K states and W tokens before each."""
        if self.memory_kinds is None:
            return None
        (b, s), rows = states.shape[:2], sentences.rows[index]
        number = sentences.numbers[index]
        state = sentences.places[index, None] - latest(self.config.num_memory_states, states.device) + 1  # (n,K)
        token = sentences.starts[number, None] - latest(self.config.num_memory_tokens, states.device)  # (n,W)
        text_start = sentences.starts[number - sentences.places[index]]  # (n,): sentences of a text follow each other
        mask = torch.cat([state >= 0, token >= text_start[:, None]], dim=1)  # (n,K+W)
        place = torch.cat([rows[:, None] * s + state.clamp(min=0), b * s + token.clamp(min=0)], dim=1)  # (n,K+W)
        return [LayerMemory((k[0][:, place].transpose(0, 1), v[0][:, place].transpose(0, 1)), mask) for k, v in memory]

    def _stop(self, states: Tensor, sentence_mask: Tensor, continues: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-odds (B,S+1) that the text stops after k sentences, and the nats of what it really does."""
        stop_logits = self.stop_head(states).squeeze(-1).float()  # (B,S+1)
        follows = F.pad(sentence_mask, (0, 1))  # (B,S+1) True where sentence k+1 is here
        if continues is not None:
            last = sentence_mask.sum(1, keepdim=True)  # (B,1) the state after the last sentence
            follows = follows.scatter(1, last, continues[:, None])
        real = F.pad(sentence_mask, (1, 0), value=True)  # (B,S+1) states that exist
        nats = F.binary_cross_entropy_with_logits(stop_logits, (~follows).float(), reduction="none")
        return stop_logits, nats * real

    def score(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> Scores:
        """Exact -log p of each text (its end included), given the context before it if there is one.

        An unfinished last sentence of a context is forced as the beginning of the text's first sentence.

        Returns:
            Scores: nats, bytes and tokens, one entry per text.

        Raises:
            ValueError: a lone surrogate (with its offset), or as many contexts as there are not texts.
        """
        return score_texts(self, texts, contexts)
