"""The sentence autoencoder, leaf to root: layers, encoder, decoder, SentenceVAE.

N sentences, T tokens of a sentence (end mark included on the decoder's side), D width, H heads, V vocabulary,
M memory vectors of a sentence, C positions held by a decoder's cache.

    input_ids (N,T) -> SentenceEncoder -> sentence_embeds (N,D) -> SentenceDecoder -> hidden states (N,T,D) -> V
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from lmbase.modeling.attention import attention
from lmbase.modeling.cache import FixedRows, RowCache
from lmbase.modeling.flops import linear_flops
from lmbase.modeling.losses import vocabulary_loss
from lmbase.text.text_model import ProcessorMixin
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.generation_sentencevae import SentenceVAEGenerationMixin
from sentencevae.grouping import Group, PackedTokens, length_groups


class Attention(nn.Module):
    """Multi-head attention of (N,T,D) queries over (N,M,D) keys; the caller gives keys and values, so it can cache."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kv = rearrange(self.kv_proj(x), "n m (two h d) -> two n h m d", two=2, h=self.num_heads)
        return kv[0], kv[1]

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None, causal: bool = False
    ) -> Tensor:
        q = rearrange(self.q_proj(x), "n t (h d) -> n h t d", h=self.num_heads)
        y = attention(q, *keys_values, mask, causal)
        return self.out_proj(rearrange(y, "n h t d -> n t (h d)"))


class MemoryAttention(Attention):
    """Attention to a memory of M vectors in a fixed order; each head learns what each place is worth."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__(config)
        self.place_bias = nn.Parameter(torch.empty(config.num_attention_heads, config.memory_size))

    def read(self, x: Tensor, memory: "LayerMemory") -> Tensor:
        bias = self.place_bias[:, None, :].masked_fill(~memory.mask[:, None, None, :], float("-inf"))  # (N,H,1,M)
        return self(x, memory.keys_values, bias.to(memory.keys_values[0].dtype))


@dataclass
class LayerMemory:
    """What one decoder layer reads beside the sentence vector: keys and values (N,H,M,d), mask (N,M)."""

    keys_values: tuple[Tensor, Tensor]
    mask: Tensor

    def select(self, index: Tensor) -> "LayerMemory":
        """Of these sentences (n,) only."""
        keys, values = self.keys_values
        return LayerMemory((keys[index], values[index]), self.mask[index])


Memories = list[LayerMemory] | None  # of all layers of a decoder
Places = slice | Tensor  # positions of a sentence: the same for all, or (N,T)


class FeedForward(nn.Module):
    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim)
        self.act = ACT2FN[config.activation_function]
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer in which every token of a sentence sees every other."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.hidden_size)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, self.attention.keys_values(h), mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class PositionGates(nn.Module):
    """Multiplies the state at position t by a learned vector g_t.

    With random signs at the start, sum_t g_t * h_t is a superposition from which g_t reads h_t back (as in
    holographic memories): a sum of token states that still knows the order of words.
    """

    def __init__(self, num_positions: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, width))

    def start_signs(self) -> Tensor:
        """Random signs, the same for encoder and decoder: a longer table opens with the rows of a shorter one."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 2, self.weight.shape, generator=generator, dtype=torch.float32) * 2 - 1

    def forward(self, x: Tensor, places: Places) -> Tensor:
        return x * self.weight[places]


class SentenceEncoder(nn.Module):
    """Token embeddings (N,T,D) -> one vector per sentence (N,D)."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.positions = nn.Embedding(config.max_sentence_tokens, config.hidden_size)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.num_encoder_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        learned = config.pooling == "learned"
        self.gates = PositionGates(config.max_sentence_tokens, config.hidden_size) if learned else None
        self.pool_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sentence vectors (N,D) and the token states (N,T,D) that they are the sum of."""
        x = embeds + self.positions.weight[: embeds.shape[1]]  # (N,T,D)
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        x = self.norm(x)
        gated = x if self.gates is None else self.gates(x, slice(0, x.shape[1]))
        pooled = (gated * mask[..., None]).sum(1)  # (N,D)
        return self.pool_norm(pooled), x


class DecoderLayer(nn.Module):
    """Pre-norm causal layer. A memory of one vector needs no query or key: attention to it is a projection."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.sentence_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        if config.memory_size:
            self.memory_norm = nn.LayerNorm(config.hidden_size)
            self.memory_attention = MemoryAttention(config)
        self.ffn_norm = nn.LayerNorm(config.hidden_size)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,  # (N,T,D)
        read: Tensor,  # (N,T,D) the sentence vector as position t reads it
        memory: LayerMemory | None,
        cached: "CachedLayer | None" = None,
    ) -> Tensor:
        x = x + self.sentence_proj(read)
        h = self.attention_norm(x)
        keys_values = self.attention.keys_values(h)
        if cached is None:
            x = x + self.dropout(self.attention(h, keys_values, None, causal=True))
        else:
            x = x + self.attention(h, cached.cache.update(*keys_values, cached.number), cached.visible)
        if memory is not None:
            x = x + self.dropout(self.memory_attention.read(self.memory_norm(x), memory))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


@dataclass
class CachedLayer:
    """Where a layer finds the keys and values of earlier positions, and what each new position sees (N,1,T,C)."""

    cache: RowCache | FixedRows
    number: int
    visible: Tensor | None  # None: everything


@dataclass
class Branches:
    """Rows of a pass that do not simply follow each other: guesses of a tree."""

    visible: Tensor  # (T,T) which of them each sees
    depths: Tensor  # (T,) how far behind the first each stands


@dataclass
class DecoderState:
    """What decoding a batch of sentences token by token remembers."""

    cache: RowCache
    sentence_embeds: Tensor  # (N,D)
    memories: Memories

    def select(self, sentences: Sequence[int]) -> None:
        """Go on with these sentences only, in this order."""
        index = torch.tensor(sentences, device=self.cache.device)
        self.cache.select(sentences)
        self.sentence_embeds = self.sentence_embeds[index]
        self.memories = self.memories and [memory.select(index) for memory in self.memories]

    def visible(self, num_rows: int, branches: Branches | None = None) -> Tensor | None:
        """What each of T new rows sees: all before it."""
        if num_rows == 1 and self.cache.even:
            return None
        if branches is not None:
            return self.cache.visible(branches.visible)
        square = torch.ones(num_rows, num_rows, dtype=torch.bool, device=self.sentence_embeds.device)
        return self.cache.visible(square.tril())

    def places(self, num_rows: int, branches: Branches | None = None) -> Places:
        """Positions of T new rows in their sentences."""
        if branches is None:
            return self.cache.places(num_rows)
        return self.cache.starts[:, None] + branches.depths


def memory_keys_values(layers: nn.ModuleList, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Vectors (N,M,D) -> each decoder layer's keys and values (N,H,M,d) of them, to be read through `LayerMemory`."""
    return [layer.memory_attention.keys_values(vectors) for layer in cast(Iterable[DecoderLayer], layers)]


class SentenceDecoder(nn.Module):
    """Sentence vector (N,D) and the tokens so far (N,T,D) -> hidden states (N,T,D) that predict the next tokens."""

    def __init__(self, config: SentenceVAEConfig):
        super().__init__()
        self.max_positions = config.max_sentence_tokens + 1  # position 0 holds the start token
        self.positions = nn.Embedding(self.max_positions, config.hidden_size)
        learned = config.pooling == "learned"
        # Position t predicts token t, so it reads with the gate that token t was written with.
        self.gates = PositionGates(self.max_positions, config.hidden_size) if learned else None
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_decoder_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, embeds: Tensor, sentence_embeds: Tensor, memories: Memories = None) -> Tensor:
        """All positions at once (teacher forcing): embeds (N,T,D) of the start token and the tokens but the last."""
        return self.norm(self.states(embeds, sentence_embeds, memories))

    def states(self, embeds: Tensor, sentence_embeds: Tensor, memories: Memories = None) -> Tensor:
        """`forward` before its last norm: what further blocks read."""
        places = slice(0, embeds.shape[1])
        return self._run(embeds, places, sentence_embeds, memories, [None] * len(self.layers))

    def start(self, sentence_embeds: Tensor, memories: Memories = None) -> DecoderState:
        """Begin to write one sentence for each row of sentence_embeds (N,D)."""
        cache = RowCache(len(sentence_embeds), self.max_positions, sentence_embeds.device)
        return DecoderState(cache, sentence_embeds, memories)

    def step(self, embeds: Tensor, state: DecoderState) -> Tensor:
        """The next T positions (N,T,D), remembered in `state`; equals `forward` at those positions."""
        x = self.norm(self.read(embeds, state))
        state.cache.keep([range(embeds.shape[1])] * len(embeds))
        return x

    def read(self, embeds: Tensor, state: DecoderState, branches: Branches | None = None) -> Tensor:
        """`step` before its last norm; the caller tells `state.cache` which positions to keep."""
        visible = state.visible(embeds.shape[1], branches)
        cached = [CachedLayer(state.cache, number, visible) for number in range(len(self.layers))]
        places = state.places(embeds.shape[1], branches)
        return self._run(embeds, places, state.sentence_embeds, state.memories, cached)

    def reading(self, sentence_embeds: Tensor, places: Places) -> Tensor:
        """The sentence vectors (N,D) as positions read them, (N,T,D) or (N,1,D)."""
        read = sentence_embeds[:, None]
        return read if self.gates is None else self.gates(read, self._within(places))

    def _within(self, places: Places) -> Places:
        if isinstance(places, slice):
            if places.stop <= self.max_positions:
                return places
            places = torch.arange(places.start, places.stop, device=self.positions.weight.device)
        # Guesses may lie behind the last position; what becomes of them is thrown away.
        return places.clamp(max=self.max_positions - 1)

    def _run(
        self, embeds: Tensor, places: Places, sentence_embeds: Tensor, memories: Memories, cached: Sequence
    ) -> Tensor:
        x = embeds + self.positions.weight[self._within(places)]  # (N,T,D)
        read = self.reading(sentence_embeds, places)
        of_layers: Sequence[LayerMemory | None] = memories or [None] * len(self.layers)
        for layer, memory, of_layer in zip(self.layers, of_layers, cached, strict=True):
            x = layer(x, read, memory, of_layer)
        return x


@dataclass
class SentenceTargets:
    """What a decoder reads and what it must predict, cut by one index so that they cannot drift apart."""

    inputs: Tensor  # (N,T+1) the start token, then the sentence
    targets: Tensor  # (N,T+1) the sentence, then the end mark
    mask: Tensor  # (N,T+1) True on real targets
    first: Tensor  # (N,T+1) True at position 0, where the end mark has probability 0


def sentence_targets(input_ids: Tensor, attention_mask: Tensor, config: SentenceVAEConfig) -> SentenceTargets:
    """Shift (N,T) sentences against themselves.

    A sentence of exactly `max_sentence_tokens` tokens has no end mark to predict: it is forced.
    """
    n, t = input_ids.shape
    lengths = attention_mask.sum(1, keepdim=True)  # (N,1)
    index = torch.arange(t + 1, device=input_ids.device)[None]  # (1,T+1)
    padded = F.pad(input_ids, (0, 1), value=config.pad_token_id)  # (N,T+1)
    targets = torch.where(index == lengths, config.eos_token_id, padded)
    start = input_ids.new_full((n, 1), config.bos_token_id)
    inputs = torch.cat([start, input_ids], dim=1)
    mask = (index <= lengths) & (index < config.max_sentence_tokens)
    return SentenceTargets(inputs, targets, mask, (index == 0).expand(n, -1))


def group_targets(group: Group, config: SentenceVAEConfig) -> SentenceTargets:
    """Those of a group; sentences that are repeated predict nothing."""
    cut = sentence_targets(group.ids, group.mask, config)
    return SentenceTargets(cut.inputs, cut.targets, cut.mask & group.real, cut.first)


@dataclass
class SentenceVAEOutput(ModelOutput):
    """
    Args:
        loss: () mean training loss per target.
        losses: named sums in nats, `loss_counts` has how many targets each has.
        correct: () targets that were the most probable token.
        sentence_embeds: (N, D).
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None
    sentence_embeds: Tensor | None = None


class SentenceVAEPreTrainedModel(PreTrainedModel):
    config: SentenceVAEConfig
    config_class = SentenceVAEConfig
    base_model_prefix = "autoencoder"
    supports_gradient_checkpointing = False
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        init_layer(module, self.config.init_std)


def init_layer(module: nn.Module, std: float) -> None:
    """Weights that an encoder or decoder layer starts with."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, std=std)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight, std=std)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MemoryAttention):
        init.zeros_(module.place_bias)
    elif isinstance(module, PositionGates):
        init.copy_(module.weight, module.start_signs())


class SentenceVAE(ProcessorMixin, SentenceVAEGenerationMixin, SentenceVAEPreTrainedModel):
    """Sentence autoencoder: N sentences -> N vectors -> the same sentences (arXiv 2408.00655, section 3).

    Text methods need `processor`, which `from_pretrained` loads with the weights.
    """

    def __init__(self, config: SentenceVAEConfig):
        config.check()
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = SentenceEncoder(config)
        gaussian = config.latent == "gaussian"
        self.to_gaussian = nn.Linear(config.hidden_size, 2 * config.hidden_size) if gaussian else None
        self.decoder = SentenceDecoder(config)
        self.kl_scale = 1.0  # a training recipe warms it up from 0
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        self.embed_tokens = value

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {"token": 1.0}
        return weights if self.to_gaussian is None else weights | {"kl": self.config.kl_weight * self.kl_scale}

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Targets behind each sum of `forward`. The KL is counted per token too: with weight 1 the sum is the ELBO."""
        tokens = sentence_targets(input_ids, attention_mask, self.config).mask.sum()
        return {"token": tokens} if self.to_gaussian is None else {"token": tokens, "kl": tokens}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs) -> SentenceVAEOutput:
        """Teacher-forced reconstruction.

        Args:
            input_ids: (N, T) sentences without end mark, padded on the right.
            attention_mask: (N, T) True on real tokens.
        """
        tokens = self.pack(input_ids, attention_mask)
        hidden, targets, first, kl, parts, order = [], [], [], [], [], []
        for group in length_groups(input_ids, attention_mask, tokens.rows, self.config.max_sentence_tokens):
            pooled, _ = self.encoder(tokens.inputs(group), group.mask)  # (n,D)
            z, kl_part = self._latent(pooled)
            cut = group_targets(group, self.config)
            if self.training and self.config.latent_dropout:
                z = z * (torch.rand(len(z), 1, device=z.device) >= self.config.latent_dropout)
            h = self.decoder(tokens.shifted(group), z)  # (n,W+1,D)
            hidden.append(h[cut.mask])
            targets.append(cut.targets[cut.mask])
            first.append(cut.first[cut.mask])
            kl.append(kl_part[: group.num_real].sum())
            parts.append(z[: group.num_real])
            order.append(group.index[: group.num_real])
        sentence_embeds = torch.cat(parts)[torch.cat(order).argsort()]  # (N,D)
        result = vocabulary_loss(
            torch.cat(hidden),
            self.embed_tokens.weight,
            torch.cat(targets),
            closed_rows=torch.cat(first),
            closed_id=self.config.eos_token_id,
            focal_gamma=self.config.focal_gamma if self.training else 0.0,
        )
        losses = {"token": result.loss}
        if self.to_gaussian is not None:
            losses["kl"] = torch.stack(kl).sum()
        counts = self.loss_counts(input_ids, attention_mask)
        loss = sum((w * losses[name] / counts[name] for name, w in self.loss_weights.items()), start=torch.zeros(()))
        correct = result.row_correct.sum()
        return SentenceVAEOutput(loss=loss, losses=losses, correct=correct, sentence_embeds=sentence_embeds)

    def _latent(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled states (n,D) -> sentence vectors (n,D) and the KL of each (n,), each dimension's first nats free."""
        if self.to_gaussian is None:
            return pooled, pooled.new_zeros(len(pooled))
        mean, log_var = self.to_gaussian(pooled).float().chunk(2, dim=-1)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)  # (n,D)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp() if self.training else mean
        return z.to(pooled.dtype), kl.clamp(min=self.config.free_bits).sum(-1)

    def flops(self, num_tokens: int, num_sentences: int) -> float:
        """Of a forward pass over so many tokens and end marks, by formula (attention inside a sentence left out)."""
        encoder = linear_flops(self.encoder)
        decoder = linear_flops(self.decoder) + 2.0 * self.embed_tokens.weight.numel()
        return num_tokens * encoder + (num_tokens + num_sentences) * decoder

    # -- vectors -----------------------------------------------------------------------------------------------------

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentences (N, T) -> sentence vectors (N, D); a Gaussian latent gives its mean outside training."""
        return self.encode_packed(self.pack(input_ids, attention_mask), input_ids, attention_mask)[0]

    def encode_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Like `encode`, with the encoder's token states (N, T, D) beside the vectors (padding holds zeros)."""
        embeds, states = self.encode_packed(self.pack(input_ids, attention_mask), input_ids, attention_mask)
        padded = states.new_zeros(*input_ids.shape, states.shape[-1])  # (N,T,D)
        return embeds, padded.masked_scatter(attention_mask[..., None], states)

    def pack(self, input_ids: Tensor, attention_mask: Tensor) -> PackedTokens:
        """The tokens (N, T), embedded."""
        return PackedTokens.of(self.embed_tokens, input_ids, attention_mask, cast(int, self.config.bos_token_id))

    def encode_packed(self, tokens: PackedTokens, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentence vectors (N, D) and the encoder's states (L, D) of all real tokens, one sentence after another."""
        embeds, states, order, places = [], [], [], []
        for group in length_groups(input_ids, attention_mask, tokens.rows, self.config.max_sentence_tokens):
            pooled, x = self.encoder(tokens.inputs(group), group.mask)
            embeds.append(self._latent(pooled)[0][: group.num_real])
            real = group.mask & group.real
            states.append(x[real])
            order.append(group.index[: group.num_real])
            places.append(group.rows[real])
        return torch.cat(embeds)[torch.cat(order).argsort()], torch.cat(states)[torch.cat(places).argsort()]
