"""SLLM: a sentence encoder, a trunk over sentence vectors, a sentence decoder (arXiv 2408.00655, section 4).

B texts or windows, S sentences of one, T tokens of a sentence, N real sentences (all texts' flattened), D width,
K trunk states that the decoder reads, M memory vectors.

    input_ids (B,S,T) -> N real sentences -> encoder (N,D) -> start state first (B,S+1,D) -> trunk -> states (B,S+1,D)
    state k (0..S) predicts sentence k+1 through the decoder, and the flag "the text stops here" through the stop head.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from lmbase.modeling.distillation import OnlineTeacher
from lmbase.modeling.losses import token_nats
from lmbase.modeling.noise import mixed, new_keys, uniform
from lmbase.modeling.packed import PackedLinear
from lmbase.modeling.stages import finish
from lmbase.modeling.trunk import drop_table, new_trunk, own_weight, run_trunk
from lmbase.text.padding import right_padded
from multitoken.draft_loop import DraftLoop
from multitoken.transitions import Transition
from sentencevae import SentenceVAE
from sentencevae.decoder import group_targets
from sentencevae.grouping import length_groups
from sentencevae.layers import Memories, init_layer
from sllm.configuration_sllm import SLLMConfig
from sllm.decoder_memory import memories_of_sentences, memory_of_all
from sllm.draft_heads import DRAFT_HEAD_KINDS, Ahead, aim_at_choices, draft_losses
from sllm.end_flag import flag_nats
from sllm.matched_states import matching_loss
from sllm.next_vector import NEXT_VECTORS
from sllm.own_layers import OwnLayers
from sllm.parts import flops_by_part, freeze_parts, part_of
from sllm.sentences import Decoded, Sentences, SLLMOutput, TextNats, cut_windows, place_in_windows
from sllm.token_loss import Taught, draft_names, loss_counts, loss_weights, token_loss
from sllm.unpredicted_ends import drop_ends, without_end
from sllm.vector_heads import VectorHead
from sllm.vector_losses import drawn_counts, drawn_output, drawn_weights, no_likelihood


class SLLMPreTrainedModel(PreTrainedModel):
    config: SLLMConfig
    config_class = SLLMConfig
    base_model_prefix = "sllm"
    supports_gradient_checkpointing = True  # of its trunk
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        # Transformers asks for modules that hold weights themselves, after those inside them.
        if isinstance(module, SLLMModel):
            if module.own is None:  # else it holds none itself, but Transformers 5.3 asks anyway
                module.start_joints()
        elif isinstance(module, OwnLayers):
            module.start()
        else:  # layers of drafting heads; the parts of the model look after their own
            init_layer(module, 0.0 if getattr(module, "starts_silent", False) else self.config.autoencoder.init_std)


class SLLMModel(SLLMPreTrainedModel):
    """Forward and scores of a sentence-level language model. `sllm.SLLM` is the class to use."""

    def __init__(self, config: SLLMConfig):
        config.check()
        super().__init__(config)
        width = config.hidden_size
        if not config.own_layers:
            self.autoencoder = SentenceVAE(config.autoencoder)
        self.trunk = new_trunk(config.trunk)
        self.own = OwnLayers(config) if config.own_layers else None
        if self.own is None:
            drop_table(self.trunk)
            self.start_state = nn.Parameter(torch.empty(width))
            self.vectors = nn.Identity()  # every sentence vector passes here: the audit listens
            self.sentence_in = nn.Linear(width, width)  # from the encoder's scale to that of the trunk's embeddings
            self.sentence_out = NEXT_VECTORS[config.next_vector].new(config)  # from states to what the decoder reads
        untied = self.own is not None and not config.trunk.tie_word_embeddings
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False) if untied else None
        self.stop_head = nn.Linear(width if self.own is None else config.trunk.hidden_size, 1)
        self.end_head = nn.Linear(width, 1) if config.end_flag else None
        for flag in (self.stop_head, self.end_head):
            if flag is not None:
                flag.starts_silent = True  # type: ignore[assignment]
        # Tells states, tokens and vectors apart in the decoder's memory. What is not used DDP does not allow.
        kinds = 3 if config.num_memory_vectors else 2
        self.memory_kinds = nn.Parameter(torch.empty(kinds, width)) if config.autoencoder.last_memory else None
        head = DRAFT_HEAD_KINDS[config.draft_head_kind]
        num_drafts = config.num_future_tokens - 1
        self.draft_heads = nn.ModuleList(head(config.autoencoder) for _ in range(num_drafts))
        self.heads_attend = head.attends
        self.draft_transitions = nn.ModuleList(Transition(width) for _ in range(num_drafts * config.draft_transitions))
        self.draws_vectors = NEXT_VECTORS[config.next_vector].draws  # then nothing has a likelihood
        self.rates: dict[str, float] = {}  # by parts, for training
        self.teacher_weight = self.state_weight = self.window_dropout = 0.0  # likewise
        self.online_teacher: OnlineTeacher | None = None
        self.packed_table: PackedLinear | None = None  # a copy of the vocabulary table to write with, see `reading`
        self.post_init()
        self.freeze()

    def start_joints(self) -> None:
        """Weights that the joints of the parts start with."""
        init.normal_(self.start_state, std=self.config.autoencoder.init_std)
        if self.memory_kinds is not None:
            init.normal_(self.memory_kinds, std=self.config.autoencoder.init_std)
        init.eye_(self.sentence_in.weight)
        init.zeros_(self.sentence_in.bias)
        NEXT_VECTORS[self.config.next_vector].start(self.sentence_out)

    def freeze(self) -> None:
        freeze_parts(self)

    def train(self, mode: bool = True) -> "SLLMModel":
        super().train(mode)
        if self.config.train_draft_heads_only:  # what does not learn drops nothing out
            self.trunk.eval()
            if self.own is None:
                self.autoencoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Embedding:
        if self.own is not None:
            return cast(nn.Embedding, self.trunk.get_input_embeddings())
        return self.autoencoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        if self.own is not None:
            self.trunk.set_input_embeddings(value)
        else:
            self.autoencoder.embed_tokens = value

    @property
    def output_table(self) -> Tensor:
        """The vocabulary table (V, D) that predictions are multiplied with."""
        return own_weight(self.get_input_embeddings() if self.lm_head is None else self.lm_head)

    @property
    def vector_head(self) -> VectorHead:
        """What draws vectors, where they are drawn."""
        return cast(VectorHead, self.sentence_out)

    @property
    def vector_door(self) -> nn.Module:
        """The module that every sentence vector passes on its way to whatever reads it."""
        return self.vectors if self.own is None else self.own.vectors

    def finish(self, states: Tensor) -> Tensor:
        """The decoder's states -> what is multiplied with the vocabulary table (..., D)."""
        return self.autoencoder.decoder.norm(states) if self.own is None else finish(self.trunk, states)

    def rate_of(self, name: str) -> float:
        """What a weight's learning rate is multiplied by in training: `rates` of its part (`joints`, `outer` layers,
        `trunk`, `table`)."""
        return self.rates.get(part_of(name, self.config), 1.0)

    def draft_loop(self, *args) -> DraftLoop:
        """What writes the sentences of one call."""
        return DraftLoop(*args)

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def draws(self) -> bool:
        return self.window_dropout > 0 or (self.own is None and self.autoencoder.latent_kind.has_kl)

    @property
    def loss_weights(self) -> dict[str, float]:
        return drawn_weights(self) if self.draws_vectors else loss_weights(self)

    def loss_counts(self, input_ids: Tensor, attention_mask: Tensor, **given) -> dict[str, Tensor]:
        counts = loss_counts(self, attention_mask, **given)
        return drawn_counts(self, counts["token"], attention_mask.any(-1).sum()) if self.draws_vectors else counts

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        sentence_mask: Tensor,
        continues: Tensor | None = None,
        keys: Tensor | None = None,
        **told: Tensor,
    ) -> SLLMOutput:
        """Predict every sentence of every text from the sentences before it.

        Args:
            input_ids, attention_mask: (B, S, T) sentences without end marks, padded on the right.
            sentence_mask: (B, S) True on real sentences.
            continues: (B,) True where the text goes on after these sentences (a window); default: nowhere.
            keys: (B,) decide what training draws for each text; default: torch's random state does.
            told: in training `cut_short` (B, S), True on sentences that it ends early, whose ends are not learnt; of a
                teacher see `sllm.token_loss`.
        """
        endless = without_end(self.config, sentence_mask, continues, told.pop("cut_short", None))
        sentences = self.read(input_ids, attention_mask, sentence_mask, keys)
        taught = Taught.of_batch(self, sentences, input_ids, attention_mask, **told)
        states = self.trunk_states(sentences, sentence_mask)  # (B,S+1,D)
        stop_logits, stop = self._stop(states, sentence_mask, continues)
        if self.draws_vectors:
            counts = self.loss_counts(input_ids, attention_mask)
            return drawn_output(self, sentences, states, keys, counts, stop_logits, stop)
        # Seeded with nothing: a batch of empty texts has a loss, too, that of its stop flags.
        rows = [input_ids.new_zeros(0)]
        gathered = [(states.new_zeros(0, self.config.hidden_size), rows[0], rows[0].bool())]
        memory = self.memory_of_heads(sentences, states)
        ahead: list[list[Ahead]] = [[] for _ in self.draft_heads]
        masks = []
        for decoded in self.decode(sentences, states, endless=endless):
            gathered.append(decoded.cut.gather(decoded.hidden))
            masks.append(decoded.cut.mask)
            if taught is not None:
                rows.append(taught.rows(decoded, sentences.numbers))
            for of_head, found in zip(ahead, self.look_ahead(decoded, sentences, states, memory), strict=True):
                of_head.append(found)
        of_rows = None if taught is None else taught.teacher.at(torch.cat(rows))
        of_tokens = token_loss(self, *map(torch.cat, zip(*gathered, strict=True)), teacher=of_rows)
        losses = {"token": of_tokens.loss if taught is None else of_tokens.nats, "stop": stop.sum()}
        if taught is not None:
            losses |= {"distilled": of_tokens.loss, "teacher": of_tokens.divergence}
            if self.state_weight and self.own is not None and taught.states is not None:
                losses["states"] = matching_loss(self.own, sentences, states, taught.states)
        if self.draft_heads:
            if self.config.draft_targets == "greedy":
                aim_at_choices(ahead, masks, of_tokens.choices)
            tables = self.get_input_embeddings(), self.output_table
            losses |= draft_losses(ahead, *tables, self.draft_transitions, draft_names(self.config))
        count = self.loss_counts(input_ids, attention_mask, cut_short=endless)["token"].clamp(min=1)
        loss = torch.stack([w * losses[name] for name, w in self.loss_weights.items() if name in losses]).sum() / count
        return SLLMOutput(states, loss, losses, of_tokens.correct, stop_logits)

    def target_nats(self, hidden: Tensor, targets: Tensor, first: Tensor, measure: Any = token_nats) -> Tensor:
        """-log p (M,) of targets, end marks among them, given hidden states (M,D)."""
        if self.draws_vectors:
            raise no_likelihood(self.config.next_vector)
        end = self.config.eos_token_id
        if self.end_head is not None:
            flags = self.end_head(hidden).squeeze(-1)
            return flag_nats(hidden, flags, self.output_table, targets, first, end, measure)
        return measure(hidden, self.output_table, targets, closed_rows=first, closed_id=end)

    def nats(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        sentence_mask: Tensor,
        continues: Tensor | None = None,
        wanted: Tensor | None = None,
        windows: Tensor | None = None,
        measure: Any = token_nats,
    ) -> TextNats:
        """-log p of every token, end mark and flag, in fp32. Differentiable.

        Args: as for `forward`;
            wanted: (B, S) sentences to score, the others are context and get zeros; default: all.
            windows: (B', 3) rows (text, start, stop): sentences [start, stop) of a text, scored as a text of their own.
                Windows that overlap cost less than such texts: what they share is encoded once. The B and S of
                `continues`, `wanted` and of the result are then those of the windows.
            measure: of tokens and end marks: `token_nats`, or `signed_nats`, whose signs say which were the first
                choice.
        """
        if self.draws_vectors:
            raise no_likelihood(self.config.next_vector)
        if windows is not None and self.own is not None:  # what is read in a window depends on where it begins
            input_ids, attention_mask, sentence_mask = cut_windows(input_ids, attention_mask, sentence_mask, windows)
        sentences = self.read(input_ids, attention_mask, sentence_mask)
        if windows is not None and self.own is None:
            sentences, sentence_mask = place_in_windows(sentences, sentence_mask, windows)
        states = self.trunk_states(sentences, sentence_mask)
        (b, s), t = sentence_mask.shape, input_ids.shape[-1]
        token = torch.zeros(b, s, t + 1, device=states.device)
        endless = without_end(self.config, sentence_mask, continues)
        for decoded in self.decode(sentences, states, wanted, endless):
            index, cut = decoded.index, decoded.cut
            values = self.target_nats(*cut.gather(decoded.hidden), measure)
            part = torch.zeros(cut.mask.shape, device=states.device).masked_scatter(cut.mask, values)
            per_sentence = F.pad(part, (0, t + 1 - part.shape[1]))[: decoded.num_real]  # (n,T+1), or cut to it
            index = index[: decoded.num_real]
            token = token.index_put((sentences.rows[index], sentences.places[index]), per_sentence)
        return TextNats(token, self._stop(states, sentence_mask, continues)[1])

    def flops(self, num_tokens: int, num_sentences: int) -> float:
        """FLOPs of a forward pass over so many tokens and sentences, by formula."""
        return sum(self.flops_by_part(num_tokens, num_sentences).values())

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        """The same, parted; `drafts` is what drafting heads take."""
        return flops_by_part(self, num_tokens, num_sentences)

    # -- the parts, in the order of a sample's way ---------------------------------------------------------------------

    def read(self, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor, keys: Tensor | None = None) -> Any:
        """Gather the real sentences of B texts and encode them: `Sentences`, or `FlatSentences` by own layers."""
        closed = self._closed(input_ids, keys)
        if self.own is not None:
            return replace(self.own.read(self.trunk, input_ids, attention_mask, sentence_mask), closed=closed)
        rows, places = right_padded(sentence_mask, "sentence_mask").nonzero(as_tuple=True)  # (N,)
        ids, mask = input_ids[rows, places], right_padded(attention_mask[rows, places])  # (N,T)
        tokens = self.autoencoder.pack(ids, mask)
        keys_of_sentences = None if keys is None else mixed(keys[rows] + places)  # (N,)
        pooled, token_states = self.autoencoder.pool_packed(tokens, ids, mask)  # (N,D), (L,D)
        lengths, embeds = mask.sum(1), self.vectors(self.autoencoder.vectors(pooled, keys_of_sentences))
        numbers = torch.arange(len(rows), device=rows.device)
        starts = lengths.cumsum(0) - lengths
        return Sentences(rows, places, numbers, ids, mask, tokens, starts, pooled, embeds, token_states, closed)

    def _closed(self, input_ids: Tensor, keys: Tensor | None) -> Tensor | None:
        """(B,) texts whose decoder has to do without the tokens of earlier sentences."""
        if not (self.training and self.window_dropout):
            return None
        keys = new_keys(len(input_ids), input_ids.device) if keys is None else keys
        # `mixed(keys)` decides about a text's first vector, and of `mixed(~keys)` its further cuts are made.
        return uniform(mixed(mixed(~keys)), 1)[:, 0] < self.window_dropout

    def trunk_inputs(self, sentences: Sentences, sentence_mask: Tensor) -> Tensor:
        """The start state and each text's sentence vectors, as the trunk reads them (B, S+1, D)."""
        b, s = sentence_mask.shape
        embeds = self.sentence_in(sentences.embeds)  # (N,D)
        placed = embeds[sentences.numbers]  # (P,D)
        body = embeds.new_zeros(b, s, embeds.shape[-1]).index_put((sentences.rows, sentences.places), placed)
        return torch.cat([self.start_state.to(embeds.dtype).expand(b, 1, -1), body], dim=1)

    def trunk_states(self, sentences: Any, sentence_mask: Tensor) -> Tensor:
        """Trunk states (B, S+1, D); state k predicts sentence k+1."""
        if self.own is not None:
            return self.own.trunk_states(self.trunk, sentences, sentence_mask)
        mask = F.pad(sentence_mask, (1, 0), value=True).long()
        return run_trunk(self.trunk, self.trunk_inputs(sentences, sentence_mask), mask)

    def decode(
        self, sentences: Any, states: Tensor, wanted: Tensor | None = None, endless: Tensor | None = None
    ) -> Iterator[Decoded]:
        """Teacher-forced decoding in groups of like length.

        Args: wanted, endless: (B, S) sentences to decode (default: all), and those without an end to predict.
        """
        given = sentences, states, wanted
        for decoded in self._decode_groups(*given) if self.own is None else self.own.decode(self.trunk, *given):
            yield drop_ends(decoded, sentences, endless, self.config.eos_token_id)

    def _decode_groups(self, sentences: Sentences, states: Tensor, wanted: Tensor | None) -> Iterator[Decoded]:
        chosen = torch.arange(len(sentences.rows), device=states.device)
        if wanted is not None:
            chosen = chosen[wanted[sentences.rows, sentences.places]]
        if len(chosen) == 0:
            return
        decoder = self.autoencoder.decoder
        memory = memory_of_all(self, decoder.layers, sentences, states)
        tokens, most = sentences.tokens, self.config.max_sentence_tokens
        number = sentences.numbers[chosen]
        for group in length_groups(sentences.ids[number], sentences.mask[number], tokens.rows[number], most):
            index = chosen[group.index]
            state = states[sentences.rows[index], sentences.places[index]]  # (n,D): sentence k+1 is read from state k
            memories = self._memories(sentences, states, index, memory)
            # Where the next vector is drawn, the decoder learns from the sentence's own.
            vectors = sentences.embeds[number[group.index]] if self.draws_vectors else self.sentence_out(state)
            decoded = decoder.states(tokens.shifted(group), vectors, memories)
            cut = group_targets(group, self.config.autoencoder)
            yield Decoded(index, group.num_real, decoded, decoder.norm(decoded), cut, vectors)

    def look_ahead(self, decoded: Decoded, sentences: Sentences, states: Tensor, memory: list) -> Iterator[Ahead]:
        """What each drafting head says: its position t predicts the i-th token after it."""
        cut, width = decoded.cut, decoded.states.shape[1]
        memories = self._memories(sentences, states, decoded.index, memory) if self.heads_attend else None
        for i, head in enumerate(self.draft_heads, start=1):
            read = None
            if self.heads_attend:
                read = self.autoencoder.decoder.reading(decoded.vectors, slice(i, i + width))
            x = head(decoded.states, read, memories[i - 1] if memories else None)  # (n,T+1,D)
            mask = cut.mask[:, i:]
            targets, before = cut.targets[:, i:][mask], cut.targets[:, i - 1 : -1][mask]
            yield Ahead(self.finish(x[:, : mask.shape[1]][mask]), targets, before)

    def memory_of_heads(self, sentences: Sentences, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `look_ahead` reads: keys and values of drafting heads with attention."""
        return memory_of_all(self, self.draft_heads, sentences, states) if self.heads_attend else []

    def _memories(self, sentences: Sentences, states: Tensor, index: Tensor, memory: list) -> Memories:
        """Of all keys and values those that sentences (n,) may read."""
        return memories_of_sentences(self, sentences, states, index, memory)

    def _stop(self, states: Tensor, sentence_mask: Tensor, continues: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-odds (B,S+1) that the text stops after k sentences, and the nats of what it really does."""
        stop_logits = self.stop_head(states).squeeze(-1).float()  # (B,S+1)
        follows = F.pad(sentence_mask.bool(), (0, 1))  # (B,S+1) True where sentence k+1 is here
        if continues is not None:
            last = sentence_mask.sum(1, keepdim=True)  # (B,1) the state after the last sentence
            follows = follows.scatter(1, last, continues[:, None])
        real = F.pad(sentence_mask, (1, 0), value=True)  # (B,S+1) states that exist
        nats = F.binary_cross_entropy_with_logits(stop_logits, (~follows).float(), reduction="none")
        return stop_logits, nats * real
