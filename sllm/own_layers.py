"""The graft by own layers: a language model's lower blocks are the encoder, its upper blocks the decoder, and those
between them the trunk, which runs once a sentence.

B texts, S sentences of one, N real sentences of all, T tokens of a sentence, L tokens of the longest text, H the
model's own width, D width of its vocabulary table.

    </s> x1 .. xL --lower blocks, each token sees a window--> s (B,L+1,H)
    vector k = s at the last token of sentence k + mean over it --middle blocks--> z (B,S+1,H), one a sentence
    (u_k, h_k) = J (z_k, s_e(k)): what the upper blocks read of a sentence at its end, and what tokens behind it carry
    token t of sentence k+1: h_k + A s_t + O_offset --upper blocks, a window of their own--> vocabulary

e(k) is where sentence k ends; e(0) is the opening token. At the start u_k = z_k, h_k = z_k - s_e(k) and A = 1. So with
one token a sentence, where t is e(k), the whole is the language model itself, as long as a text fits into the windows;
`sllm.joint_fitting` makes of J, A and O what is best for longer ones. Of the opening token the upper blocks read z_0
itself. Every window holds the opening token beside the latest ones: pretrained models look there when they look for
nothing (arXiv 2309.17453).

At the last token of a sentence the upper blocks run twice: with h_k they tell that the sentence ends, and with u_{k+1},
made of that token, they predict the next one. Later tokens see the second run only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init

from lmbase.modeling.stages import band, embed, finish, run_blocks
from lmbase.modeling.trunk import blocks
from lmbase.text.padding import right_padded
from sentencevae.decoder import sentence_targets
from sllm.configuration_sllm import SLLMConfig
from sllm.sentences import Decoded


@dataclass
class FlatSentences:
    """N real sentences of B texts, whose tokens stand one after another behind the opening token."""

    rows: Tensor  # (N,) text
    places: Tensor  # (N,) number in it, from 0
    ids: Tensor  # (N, T)
    mask: Tensor  # (N, T)
    before: Tensor  # (N,) tokens of the text before each sentence
    flat: Tensor  # (B, L+1) ids, the opening one first
    states: Tensor  # (B, L+1, H) of the lower blocks
    embeds: Tensor  # (N, H) vectors
    closed: Tensor | None = None  # (B,) texts whose upper blocks see no tokens of sentences before their own

    @property
    def numbers(self) -> Tensor:
        """(N,) they are in their order."""
        return torch.arange(len(self.rows), device=self.rows.device)

    @property
    def ends(self) -> Tensor:
        """(N,) positions of last tokens."""
        return self.before + self.mask.sum(1)

    def ends_by_state(self, num_sentences: int) -> Tensor:
        """(B, S+1) position of the token that each trunk state was made of; 0 where there is no sentence."""
        ends = self.ends.new_zeros(len(self.states), num_sentences + 1)
        return ends.index_put((self.rows, self.places + 1), self.ends)


class OwnLayers(nn.Module):
    """What joins the stages of a language model that has become an SLLM."""

    def __init__(self, config: SLLMConfig):
        super().__init__()
        width = config.trunk.hidden_size
        self.config = config
        self.mean = nn.Linear(width, width, bias=False)  # of a sentence's states, added to the last one
        self.joint = nn.Linear(2 * width, 2 * width)  # J: trunk state and lower state of a sentence's end
        self.carry = nn.Linear(width, width, bias=False)  # A: token states as the upper blocks read them
        self.opening = nn.Parameter(torch.empty(width))  # h_0
        self.offsets = nn.Parameter(torch.empty(config.max_sentence_tokens, width))  # O, by tokens since the last end
        self.vectors = nn.Identity()  # every sentence vector passes here: the audit listens

    def start(self) -> None:
        """As the language model itself."""
        for silent in (self.mean.weight, self.joint.weight, self.joint.bias, self.opening, self.offsets):
            init.zeros_(silent)
        init.eye_(self.carry.weight)
        width = len(self.opening)
        with torch.no_grad():
            if self.config.use_trunk:
                self.joint.weight[:width, :width] = self.joint.weight[width:, :width] = torch.eye(width)
                self.joint.weight[width:, width:] = -torch.eye(width)
            else:  # tokens alone
                self.joint.weight[:width, width:] = torch.eye(width)

    # -- stages ------------------------------------------------------------------------------------------------------

    def lower(self, trunk: PreTrainedModel) -> nn.ModuleList:
        return blocks(trunk)[: self.config.lower_layers]

    def between(self, trunk: PreTrainedModel) -> nn.ModuleList:
        return blocks(trunk)[self.config.lower_layers : -self.config.upper_layers]

    def middle(self, trunk: PreTrainedModel) -> nn.ModuleList:
        """Those of the trunk, if it is used."""
        return self.between(trunk) if self.config.use_trunk else blocks(trunk)[:0]

    def upper(self, trunk: PreTrainedModel) -> nn.ModuleList:
        return blocks(trunk)[-self.config.upper_layers :]

    def vector(self, last: Tensor, mean: Tensor) -> Tensor:
        """Of sentences whose last state and mean state are known (..., H)."""
        return self.vectors(last + self.mean(mean))

    def joined(self, states: Tensor, ends: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """(..., H) each: what the upper blocks read at the end of a sentence, and what tokens behind it carry.

        Args:
            states: (..., H) of the trunk.
            ends: (..., H) states s of the last tokens that they were made of.
            first: (...) bool, that is the opening token.
        """
        at_end, carried = self.joint(torch.cat([states, ends], dim=-1)).chunk(2, dim=-1)
        first = first[..., None]
        read = states if self.config.use_trunk else ends
        return torch.where(first, read, at_end), torch.where(first, self.opening, carried)

    def upper_inputs(self, states: Tensor, at_end: Tensor, carried: Tensor, offsets: Tensor) -> Tensor:
        """What the upper blocks read at tokens: (..., H).

        Args:
            states: (..., H) states s of the tokens.
            at_end, carried: (..., H) of the latest sentence that the trunk has read (`joined`).
            offsets: (...) tokens since its end.
        """
        shift = F.embedding((offsets - 1).clamp(0, len(self.offsets) - 1), self.offsets)
        return torch.where(offsets[..., None] > 0, carried + self.carry(states) + shift, at_end)

    # -- all sentences at once -----------------------------------------------------------------------------------------

    def read(
        self, trunk: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor, cache=None
    ) -> FlatSentences:
        """Lower blocks over B texts of sentences (B, S, T), and a vector of each sentence; their keys and values go
        into a cache, if there is one."""
        rows, places = right_padded(sentence_mask, "sentence_mask").nonzero(as_tuple=True)  # (N,)
        ids, mask = input_ids[rows, places], right_padded(attention_mask[rows, places])  # (N,T)
        lengths = mask.sum(1)
        longest = self.config.max_sentence_tokens
        if len(lengths) and int(lengths.max()) > longest:
            raise ValueError(f"A sentence of {int(lengths.max())} tokens; the model reads at most {longest}.")
        by_text = (attention_mask & sentence_mask[..., None]).sum(-1)  # (B,S)
        before = (by_text.cumsum(1) - by_text)[rows, places]  # (N,)
        num_tokens = int(by_text.sum(1).max()) if by_text.numel() else 0
        flat = input_ids.new_full((len(input_ids), num_tokens + 1), self.config.bos_token_id)  # (B,L+1)
        place = before[:, None] + 1 + torch.arange(ids.shape[1], device=ids.device)  # (N,T)
        flat = flat.index_put((rows[:, None].expand_as(place)[mask], place[mask]), ids[mask])
        states = self._read_flat(trunk, flat, cache)
        at = (rows[:, None], place.clamp(max=num_tokens))
        mean = (states[at] * mask[..., None]).sum(1) / lengths[:, None].clamp(min=1)  # (N,H)
        embeds = self.vector(states[rows, before + lengths], mean)
        return FlatSentences(rows, places, ids, mask, before, flat, states, embeds)

    def _read_flat(self, trunk: PreTrainedModel, flat: Tensor, cache=None) -> Tensor:
        """Lower blocks over ids (B, L+1) that begin with the opening one -> (B, L+1, H)."""
        positions = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
        visible = band(flat.shape[1], self.config.lower_window, flat.device)[None, None]
        return run_blocks(trunk, self.lower(trunk), embed(trunk, flat, positions), visible, positions, cache)

    def trunk_states(
        self, trunk: PreTrainedModel, sentences: FlatSentences, sentence_mask: Tensor, cache=None
    ) -> Tensor:
        """Trunk states (B, S+1, H); state k predicts sentence k+1."""
        b, s = sentence_mask.shape
        if not self.config.use_trunk:
            return sentences.embeds.new_zeros(b, s + 1, sentences.embeds.shape[-1])
        body = sentences.embeds.new_zeros(b, s, sentences.embeds.shape[-1])
        body = body.index_put((sentences.rows, sentences.places), sentences.embeds)
        inputs = torch.cat([sentences.states[:, :1], body], dim=1)  # (B,S+1,H)
        visible = band(s + 1, s + 1, inputs.device)[None, None]
        return run_blocks(trunk, self.middle(trunk), inputs, visible, sentences.ends_by_state(s), cache)

    def upper_rows(self, sentences: FlatSentences, num_states: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, R) each, of the R = L+1+S rows that the upper blocks read: every token, the opening one first, with the
        latest of S+1 trunk states; then the last tokens of sentences once more, with the state before. Position,
        number of the state, and tokens since that was made."""
        b, num_rows = sentences.flat.shape
        ends = sentences.ends_by_state(num_states - 1)  # (B,S+1)
        passed = ends.new_zeros(b, num_rows).index_put(
            (sentences.rows, sentences.ends), torch.ones_like(sentences.ends)
        )
        index = torch.arange(max(num_rows, num_states), device=ends.device)
        places = torch.cat([index[:num_rows].expand(b, -1), ends[:, 1:]], dim=1)
        state = torch.cat([passed.cumsum(1), index[: num_states - 1].expand(b, -1)], dim=1)
        return places, state, places - ends.gather(1, state)

    def inputs_of_rows(self, sentences: FlatSentences, states: Tensor) -> Tensor:
        """What the upper blocks read at `upper_rows` (B, R, H)."""
        places, state, offsets = self.upper_rows(sentences, states.shape[1])
        rows = torch.arange(len(states), device=states.device)[:, None]
        at_end, carried = self.joined_at(sentences, states)
        return self.upper_inputs(sentences.states[rows, places], at_end[rows, state], carried[rows, state], offsets)

    def joined_at(self, sentences: FlatSentences, states: Tensor) -> tuple[Tensor, Tensor]:
        """`joined` of all trunk states (B, S+1, H)."""
        ends = sentences.ends_by_state(states.shape[1] - 1)  # (B,S+1)
        last = sentences.states.gather(1, ends[..., None].expand_as(states))  # (B,S+1,H)
        return self.joined(states, last, ends == 0)

    def seen(self, positions: Tensor, num_rows: int, ends: Tensor, closed: Tensor | None = None) -> Tensor:
        """(B, R, L+1) bool: which tokens the rows at these positions (B, R) see in the upper blocks.

        Args:
            num_rows: L+1; rows behind so many are second readings, which do not see the first.
            ends: (B, S+1) where sentences end.
            closed: (B,) texts whose windows reach back to the beginning of the sentence only.
        """
        place = torch.arange(num_rows, device=positions.device)
        apart = positions[:, :, None] - place
        seen = (apart >= 0) & ((apart < self.config.upper_window) | (place == 0))
        seen[:, num_rows:] &= apart[:, num_rows:] > 0
        if closed is None:
            return seen
        # The token that the newest state was made of stands where the sentence's first token is predicted.
        number = ((ends[:, 1:, None] <= place) & (ends[:, 1:, None] > 0)).sum(1)  # (B,L+1) sentence that is predicted
        of_rows = number.gather(1, positions)
        of_rows[:, num_rows:] -= 1  # second readings of last tokens belong to the sentence that ends
        own = (of_rows[:, :, None] == number[:, None]) | (place == 0)  # attention rests at the opening token
        return seen & (own | ~closed[:, None, None])

    def decode(
        self, trunk: PreTrainedModel, sentences: FlatSentences, states: Tensor, wanted: Tensor | None = None
    ) -> Iterator[Decoded]:
        """Upper blocks over the true tokens of all sentences, in one group."""
        chosen = torch.arange(len(sentences.rows), device=states.device)
        if wanted is not None:
            chosen = chosen[wanted[sentences.rows, sentences.places]]
        if len(chosen) == 0:
            return
        (b, num_rows), s = sentences.states.shape[:2], states.shape[1] - 1
        ends = sentences.ends_by_state(s)
        # Second readings of last tokens see what the others do, and nobody sees them.
        positions, *_ = self.upper_rows(sentences, s + 1)  # (B,R)
        seen = self.seen(positions, num_rows, ends, sentences.closed)
        itself = torch.eye(s, dtype=torch.bool, device=ends.device)
        visible = torch.cat([seen, F.pad(itself, (0, 0, num_rows, 0)).expand(b, -1, -1)], dim=2)[:, None]
        found = run_blocks(trunk, self.upper(trunk), self.inputs_of_rows(sentences, states), visible, positions)
        lengths = sentences.mask.sum(1, keepdim=True)  # (N,1)
        place = torch.arange(sentences.ids.shape[1] + 1, device=ends.device)
        at = sentences.before[:, None] + place  # (N,T+1)
        at = torch.where(place == lengths, num_rows + sentences.places[:, None], at.clamp(max=num_rows - 1))
        decoded = found[sentences.rows[chosen, None], at[chosen]]  # (n,T+1,H)
        cut = sentence_targets(sentences.ids[chosen], sentences.mask[chosen], self.config.autoencoder)
        yield Decoded(chosen, len(chosen), decoded, finish(trunk, decoded), cut, states[:0, 0])
