"""Reading an SLLM's texts sentence after sentence with caches, and beginning to write the next one: the path that
generates. Its scores are those of the parallel path, `SLLMModel.forward`.

B texts, S sentences of a text, T tokens of a sentence, N sentences, D width, C states read so far, K trunk states, W
tokens and M sentence vectors that the decoder reads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from lmbase.modeling.cache import RowCache
from lmbase.modeling.losses import token_nats
from lmbase.modeling.noise import mixed, new_keys, uniform
from lmbase.modeling.packed import pack_linear_layers, packed_table
from lmbase.modeling.trunk import run_trunk
from sentencevae.decoder import DecoderState
from sentencevae.layers import CachedLayer, DecoderLayer, LayerMemory, Memories, TreeMask, select_memories
from sllm import own_reading
from sllm.decoder_memory import latest, memory_vectors
from sllm.end_flag import ends_for_sure, joint_logits, only_end
from sllm.modeling_sllm import SLLMModel
from sllm.own_reading import OwnState, OwnWriting

CANDIDATES = 32  # drawn vectors for a sentence that a prompt has begun


@dataclass
class ReadingState:
    """What step-by-step reading of B texts remembers: the trunk's cache and the decoder's memory."""

    past_key_values: DynamicCache | RowCache
    attention_mask: Tensor  # (B, C) states read so far; a text that is shorter or over has zeros, and so has free room
    states: Tensor  # (B, K, D) the latest trunk states, newest last
    states_mask: Tensor  # (B, K)
    tokens: Tensor  # (B, W, D) the encoder's states of the latest tokens, newest last
    tokens_mask: Tensor  # (B, W)
    vectors: Tensor  # (B, M, D) of the latest sentences, newest last
    vectors_mask: Tensor  # (B, M)
    drawn: Tensor | None = None  # (B, D) vectors of the next sentences, where those are drawn

    def add(self, new: Tensor, vectors: Tensor, alive: Tensor) -> None:
        """The trunk's next state (B, 1, D), and the vector (B, 1, D) that it was made of, of those texts (B,) that go
        on."""
        self.states = torch.cat([self.states, new], dim=1)[:, 1:]
        self.states_mask = torch.cat([self.states_mask, alive[:, None]], dim=1)[:, 1:]
        if self.vectors.shape[1]:
            self.vectors = torch.cat([self.vectors, vectors], dim=1)[:, 1:]
            self.vectors_mask = torch.cat([self.vectors_mask, alive[:, None]], dim=1)[:, 1:]
        self.drawn = None


AnyState = Any  # ReadingState, or OwnState of a graft by own layers
AnyWriting = Any  # DecoderState, or OwnWriting


def newest_tokens(tokens: Tensor, tokens_mask: Tensor, new: Tensor, new_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The latest W of W tokens (B, W, D) and the T of a sentence that follow them (B, T, D)."""
    # Old tokens end at the right border, new ones begin behind it: the latest W end where each new sentence does.
    latest = new_mask.sum(1, keepdim=True) + torch.arange(tokens.shape[1], device=new.device)  # (B,W)
    rows = torch.arange(len(tokens), device=new.device)[:, None]
    return torch.cat([tokens, new], dim=1)[rows, latest], torch.cat([tokens_mask, new_mask], dim=1)[rows, latest]


def prefill(model: SLLMModel, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor) -> AnyState:
    """Read the start state and S sentences of B texts at once, remembering what the next sentence needs.

    Args: as for `forward`; texts of fewer sentences are padded on the right.
    """
    if model.own is not None:
        return own_reading.prefill(model, input_ids, attention_mask, sentence_mask)
    sentences = model.read(input_ids, attention_mask, sentence_mask)
    inputs = model.trunk_inputs(sentences, sentence_mask)
    mask = F.pad(sentence_mask, (1, 0), value=True).long()  # (B,S+1)
    cache = DynamicCache(config=model.config.trunk)
    states = run_trunk(model.trunk, inputs, mask, cache)  # (B,S+1,D)
    last = sentence_mask.sum(1)  # (B,)
    rows = torch.arange(len(last), device=states.device)
    wanted = last[:, None] - latest(model.config.num_memory_states, states.device) + 1  # (B,K)
    return ReadingState(
        cache,
        mask,
        states[rows[:, None], wanted.clamp(min=0)],
        wanted >= 0,
        *_newest(sentences.token_states, attention_mask.sum((1, 2)), model.config.num_memory_tokens),
        *_newest(sentences.embeds, last, model.config.num_memory_vectors),
    )


def _newest(x: Tensor, counts: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Of rows (L, D), so many (B,) of each text, one text after another: the newest of each, newest last
    (B, number, D), and which of them there are (B, number)."""
    ends = counts.cumsum(0)
    place = ends[:, None] - latest(number, x.device)
    return F.pad(x, (0, 0, 0, 1))[place.clamp(min=0)], place >= (ends - counts)[:, None]  # never empty


def step(model: SLLMModel, input_ids: Tensor, attention_mask: Tensor, state: AnyState) -> None:
    """Read one more sentence of each text: ids and mask (B, T); a text whose mask is empty is over, and stays."""
    if isinstance(state, OwnState):
        own_reading.step(model, input_ids, attention_mask, state)
        return
    alive = attention_mask.any(1)  # (B,)
    safe = attention_mask.clone()
    safe[:, 0] |= ~alive  # the encoder needs one token; what it makes of it is masked out below
    embeds, token_states = model.autoencoder.encode_states(input_ids, safe)
    state.attention_mask = torch.cat([state.attention_mask, alive[:, None].long()], dim=1)
    vectors = model.sentence_in(embeds)[:, None]  # (B,1,D)
    new = run_trunk(model.trunk, vectors, state.attention_mask, state.past_key_values)  # (B,1,D)
    state.add(new, embeds[:, None], alive)
    state.tokens, state.tokens_mask = newest_tokens(state.tokens, state.tokens_mask, token_states, attention_mask)


def vocabulary_logits(model: SLLMModel, hidden: Tensor) -> Tensor:
    """The decoder's states (..., D) after its last norm -> (..., V)."""
    table = model.output_table
    return hidden @ table.T if model.packed_table is None else model.packed_table(hidden)


def lm_logits(model: SLLMModel, states: Tensor, ahead: Sequence[Tensor], early: bool = False) -> tuple[Tensor, Tensor]:
    """Of the decoder's states (B, R, D) and those of k drafting heads there: all after the last norm
    (B, R, 1+k, D), and their logits (B, R, 1+k, V).

    Args: early: where all sentences end by their flags, tokens need no logits.
    """
    hidden, end = model.finish(torch.stack([states, *ahead], dim=2)), model.config.eos_token_id
    if model.end_head is None:
        return hidden, vocabulary_logits(model, hidden)
    flags = model.end_head(hidden[:, :, 0]).squeeze(-1)  # (B,R)
    if early and not ahead and ends_for_sure(flags):
        return hidden, only_end(flags, model.config.vocab_size, end)[:, :, None]
    logits = vocabulary_logits(model, hidden)
    with_end = joint_logits(logits[:, :, 0], flags, end)
    return hidden, torch.cat([with_end[:, :, None], logits[:, :, 1:]], dim=2)


def write_in(model: SLLMModel, weights: str) -> None:
    """`SLLM.write_in`."""
    table = packed_table(model.output_table, weights)
    pack_linear_layers(model, weights, but=model.lm_head)  # drafting heads' guesses look into it
    model.packed_table = table


def start_sentence(model: SLLMModel, state: AnyState) -> AnyWriting:
    """Begin to write the next sentence of each text."""
    if isinstance(state, OwnState):
        state.writing = OwnWriting(model, state)
        return state.writing
    decoder, newest = model.autoencoder.decoder, state.states[:, -1]
    if model.draws_vectors and state.drawn is None:
        draw_vectors(model, state, new_keys(len(newest), newest.device), model.config.vector_temperature)
    vectors = cast(Tensor, state.drawn) if model.draws_vectors else model.sentence_out(newest)
    return decoder.start(vectors, memories_of(model, decoder.layers, state))


def draw_vectors(
    model: SLLMModel,
    state: ReadingState,
    keys: Tensor,
    temperature: float,
    forced: Sequence[list[int]] | None = None,
) -> None:
    """Draw the next sentence's vector of each text, decided by its key (B,).

    A sentence that has begun (`forced` tokens) gets one of several draws, by how likely the decoder finds this
    beginning under each: the more there are, the nearer to a draw of those that go with it.
    """
    decoder, embed = model.autoencoder.decoder, model.autoencoder.embed_tokens
    state.drawn = model.vector_head.sample(state.states[:, -1], keys, temperature)
    memories = memories_of(model, decoder.layers, state) if any(forced or []) else None
    for row, ids in enumerate(forced or []):
        if ids:
            newest = state.states[row, -1].expand(CANDIDATES, -1)
            of_candidates = mixed(keys[row] ^ torch.arange(1, CANDIDATES + 1, device=keys.device))
            found = model.vector_head.sample(newest, of_candidates, temperature)
            read = torch.tensor([[model.config.bos_token_id, *ids[:-1]]], device=keys.device)
            of_row = select_memories(memories, torch.full((CANDIDATES,), row, device=keys.device))
            hidden = decoder(embed(read).expand(CANDIDATES, -1, -1), found, of_row)
            targets = torch.tensor(ids, device=keys.device).expand(CANDIDATES, -1)
            first = torch.arange(targets.numel(), device=keys.device) % len(ids) == 0
            rows = hidden.flatten(0, 1), model.output_table, targets.flatten()
            nats = token_nats(*rows, closed_rows=first, closed_id=model.config.eos_token_id).view(CANDIDATES, -1)
            chances = (-nats.sum(1)).double().softmax(0).cumsum(0)
            chosen = int((chances < uniform(mixed(keys[row : row + 1]), 1)[0]).sum().clamp(max=CANDIDATES - 1))
            state.drawn[row] = found[chosen]


def write_rows(model: SLLMModel, ids: Tensor, written: AnyWriting, tree: TreeMask | None = None) -> Tensor:
    """The decoder's states (B, R, D), before its last norm, at R more rows (B, R) of sentences that are written; the
    first row of all is the opening token. `written.keep` is to be told which of them stand."""
    if isinstance(written, OwnWriting):
        return written.read(ids, tree)
    return model.autoencoder.decoder.read(model.autoencoder.embed_tokens(ids), written, tree)


def memories_of(model: SLLMModel, layers: nn.ModuleList, state: ReadingState) -> Memories:
    """What these layers of the decoder read beside the next sentence's vector."""
    if model.memory_kinds is None:
        return None
    vectors = memory_vectors(model, state.states, state.tokens, state.vectors)  # (B,K+W+M,D)
    mask = torch.cat([state.states_mask, state.tokens_mask, state.vectors_mask], dim=1)
    return [layer.remember(vectors, mask) for layer in cast(Iterable[DecoderLayer], layers)]


def draft_states(
    model: SLLMModel, heads: nn.ModuleList, x: Tensor, state: DecoderState, tree: TreeMask | None = None
) -> list[Tensor]:
    """The next T positions of each of the first drafting heads (N,T,D), given the decoder's states there before its
    last norm."""
    decoder, rows = model.autoencoder.decoder, x.shape[1]
    visible, places = state.visible(rows, tree), state.places(rows, tree)
    memories: Sequence[LayerMemory | None] = state.memories or [None] * len(heads)
    found = []
    for i, (head, memory) in enumerate(zip(heads, memories, strict=True), start=1):
        ahead = slice(places.start + i, places.stop + i) if isinstance(places, slice) else places + i
        read = decoder.reading(state.sentence_embeds, ahead)
        found.append(head(x, read, memory, CachedLayer(state.cache, i, visible)))
    return found
