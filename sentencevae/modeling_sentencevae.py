"""The sentence autoencoder: encoder, decoder, and the model of both.

N sentences, T tokens of a sentence (end mark included on the decoder's side), D width, V vocabulary.

    input_ids (N,T) -> SentenceEncoder -> sentence_embeds (N,D) -> SentenceDecoder -> hidden states (N,T,D) -> V
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from lmbase.modeling.flops import linear_flops
from lmbase.modeling.labels import SentenceModelOutput, check_labels, check_rows, check_unread, per_item
from lmbase.modeling.losses import vocabulary_loss
from lmbase.modeling.noise import mixed, new_keys, uniform
from lmbase.modeling.trunk import own_weight
from lmbase.text.padding import between_padding, right_padded
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.decoder import SentenceDecoder, group_targets, sentence_targets
from sentencevae.grouping import PackedTokens, length_groups
from sentencevae.latents import LATENTS, GaussianLatent
from sentencevae.layers import EncoderLayer, PositionGates, init_layer


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


@dataclass
class SentenceVAEOutput(SentenceModelOutput):
    """
    Args:
        sentence_embeds: (N, D); first, where pipelines look for the features of a text.
        loss: () mean training loss per target.
        losses: named sums in nats, `loss_counts` has how many targets each has.
        correct: () targets that were the most probable token.
    """

    sentence_embeds: Tensor | None = None
    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    correct: Tensor | None = None


class SentenceVAEPreTrainedModel(PreTrainedModel):
    config: SentenceVAEConfig
    config_class = SentenceVAEConfig
    base_model_prefix = "autoencoder"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        init_layer(module, self.config.init_std)


class SentenceVAEModel(SentenceVAEPreTrainedModel):
    """Forward and vectors of the sentence autoencoder. `sentencevae.SentenceVAE` is the class to use."""

    def __init__(self, config: SentenceVAEConfig):
        config.check()
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = SentenceEncoder(config)
        self.latent_kind = LATENTS[config.latent]
        self.to_gaussian = self.latent_kind.projection(config)
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
        return weights if not self.latent_kind.has_kl else weights | {"kl": self.config.kl_weight * self.kl_scale}

    @property
    def draws(self) -> bool:
        """Whether training draws something for each sentence."""
        return self.latent_kind.has_kl or self.config.latent_dropout > 0

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor, **_) -> dict[str, Tensor]:
        """Targets behind each sum of `forward`. The KL is counted per token too: with weight 1 the sum is the ELBO."""
        tokens = sentence_targets(input_ids, attention_mask, self.config).mask.sum()
        return {"token": tokens} if not self.latent_kind.has_kl else {"token": tokens, "kl": tokens}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        keys: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unread,
    ) -> SentenceVAEOutput:
        """Teacher-forced reconstruction.

        Args:
            input_ids: (N, T) sentences without end mark, padded on the right.
            attention_mask: (N, T) True on real tokens; default: everything but padding.
            keys: (N,) decide what training draws for each sentence; default: torch's random state does.
            labels: (N, T) as Transformers' collators make them: a copy of the ids, which every sentence is learnt from.
            num_items_in_batch: what the loss is divided by in place of the number of targets.

        Raises:
            ValueError: padding on the left, labels that are no copy, too long a sentence or an empty one, ids outside
                the vocabulary, an argument that is not read.
        """
        check_unread(unread)
        check_rows(input_ids, attention_mask, labels, self.config.vocab_size)
        if attention_mask is None:
            attention_mask = between_padding(input_ids, cast(int, self.config.pad_token_id))
        attention_mask = _with_tokens(right_padded(attention_mask))
        check_labels(labels, input_ids, attention_mask, self.config)
        if self.training and self.draws and keys is None:
            keys = new_keys(len(input_ids), input_ids.device)
        tokens = self.pack(input_ids, attention_mask)
        gathered, kl, parts, order = [], [], [], []
        for group in length_groups(input_ids, attention_mask, tokens.rows, self.config.max_sentence_tokens):
            pooled, _ = self.encoder(tokens.inputs(group), group.mask)  # (n,D)
            own = None if keys is None or not self.training else keys[group.index]
            z, kl_part = self.latent(pooled, own)
            cut = group_targets(group, self.config)
            if own is not None and self.config.latent_dropout:
                z = z * (uniform(mixed(own), 1) >= self.config.latent_dropout)
            gathered.append(cut.gather(self.decoder(tokens.shifted(group), z)))
            kl.append(kl_part[: group.num_real].sum())
            parts.append(z[: group.num_real])
            order.append(group.index[: group.num_real])
        sentence_embeds = torch.cat(parts)[torch.cat(order).argsort()]  # (N,D)
        hidden, targets, first = map(torch.cat, zip(*gathered, strict=True))
        result = vocabulary_loss(
            hidden,
            own_weight(self.embed_tokens),
            targets,
            closed_rows=first,
            closed_id=self.config.eos_token_id,
            focal_gamma=self.config.focal_gamma if self.training else 0.0,
        )
        losses = {"token": result.loss} | ({"kl": torch.stack(kl).sum()} if self.latent_kind.has_kl else {})
        counts, correct = self.loss_counts(input_ids, attention_mask), result.row_correct.sum()
        loss = sum((w * losses[name] / counts[name] for name, w in self.loss_weights.items()), start=torch.zeros(()))
        loss = per_item(cast(Tensor, loss), counts["token"], num_items_in_batch)
        return SentenceVAEOutput(loss=loss, losses=losses, correct=correct, sentence_embeds=sentence_embeds)

    def latent(self, pooled: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pooled states (n,D) -> sentence vectors (n,D), drawn if there are keys (n,), and the KL of each (n,), each
        dimension's first nats free."""
        return self.latent_kind(pooled, self.to_gaussian, self.config, keys)

    def flops(self, num_tokens: int, num_sentences: int) -> float:
        """FLOPs of a forward pass over so many tokens and end marks, by formula; attention in sentences left out."""
        return sum(self.flops_by_part(num_tokens, num_sentences).values())

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        """The same, parted."""
        written = num_tokens + num_sentences
        return {
            "encoder": num_tokens * linear_flops(self.encoder),
            "decoder": written * linear_flops(self.decoder),
            "vocabulary": written * 2.0 * self.embed_tokens.weight.numel(),
        }

    # -- vectors -----------------------------------------------------------------------------------------------------

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentences (N, T) -> sentence vectors (N, D); a Gaussian latent gives its mean outside training."""
        attention_mask = self._sentences(input_ids, attention_mask)
        return self.encode_packed(self.pack(input_ids, attention_mask), input_ids, attention_mask)[0]

    def encode_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Like `encode`, with the encoder's token states (N, T, D) beside the vectors (padding holds zeros)."""
        attention_mask = self._sentences(input_ids, attention_mask)
        embeds, states = self.encode_packed(self.pack(input_ids, attention_mask), input_ids, attention_mask)
        padded = states.new_zeros(*input_ids.shape, states.shape[-1])  # (N,T,D)
        return embeds, padded.masked_scatter(attention_mask[..., None], states)

    def _sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mask of sentences (N, T), of which there may be none; errors as of `forward`."""
        if len(input_ids):
            check_rows(input_ids, attention_mask, None, self.config.vocab_size)
        return _with_tokens(right_padded(attention_mask))

    def pack(self, input_ids: Tensor, attention_mask: Tensor) -> PackedTokens:
        """The tokens (N, T), embedded."""
        return PackedTokens.of(self.embed_tokens, input_ids, attention_mask, cast(int, self.config.bos_token_id))

    def encode_packed(
        self, tokens: PackedTokens, input_ids: Tensor, attention_mask: Tensor, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sentence vectors (N, D) and the encoder's states (L, D) of all real tokens, one sentence after another.

        Args:
            keys: (N,) as for `forward`.
        """
        pooled, states = self.pool_packed(tokens, input_ids, attention_mask)
        return self.vectors(pooled, keys), states

    def pool_packed(self, tokens: PackedTokens, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What vectors are made of (N, D), and the encoder's states (L, D)."""
        pools, states, order, places = [], [], [], []
        for group in length_groups(input_ids, attention_mask, tokens.rows, self.config.max_sentence_tokens):
            pooled, x = self.encoder(tokens.inputs(group), group.mask)
            pools.append(pooled[: group.num_real])
            real = group.mask & group.real
            states.append(x[real])
            order.append(group.index[: group.num_real])
            places.append(group.rows[real])
        return torch.cat(pools)[torch.cat(order).argsort()], torch.cat(states)[torch.cat(places).argsort()]

    def vectors(self, pooled: Tensor, keys: Tensor | None = None) -> Tensor:
        """Sentence vectors (N, D) of pooled states (N, D): in training drawn if the latent is one to draw from."""
        if self.training and self.latent_kind.has_kl and keys is None:
            keys = new_keys(len(pooled), pooled.device)
        return self.latent(pooled, keys if self.training else None)[0]

    def posterior(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the variance (N, D) of a Gaussian latent."""
        assert isinstance(self.latent_kind, GaussianLatent)
        assert self.to_gaussian is not None
        return self.latent_kind.posterior(pooled, self.to_gaussian)


def _with_tokens(attention_mask: Tensor) -> Tensor:
    """The mask (N, T), if every sentence has a token: an empty one has no vector, and a loss without end."""
    if not torch.compiler.is_compiling() and not (some := attention_mask.any(-1)).all():
        raise ValueError(
            f"Sentence {int((~some).nonzero()[0, 0])} has no tokens: an empty line, or a mask that hides all of it; "
            "leave such sentences out."
        )
    return attention_mask
