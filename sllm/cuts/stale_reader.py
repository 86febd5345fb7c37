"""What a token costs when the newest state of the text before it is some tokens old.

A small stand-in for every sentence-level model: a trunk reads the tokens; a reader of one layer predicts a piece from
the trunk's state where the piece begins and from the piece's own tokens.

B windows, L tokens, T tokens of a piece, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmbase.modeling.inference import inference
from lmbase.modeling.losses import token_nats, vocabulary_loss
from lmbase.modeling.trunk import output_table, special_ids, trunk_of
from lmbase.text.padding import pad_tokens
from lmbase.text.windows import training_windows, windows

ROWS = 128  # pieces read at once
SHARES = 0.06, 0.4  # of the tokens that begin a piece in training, drawn for each window


class StaleReader(nn.Module):
    """Args: lm: a token-level language model; `tuned`: whether it learns, too. longest: tokens of a piece at most."""

    causal: Tensor  # (longest, longest) True where a token does not look

    def __init__(self, lm: PreTrainedModel, longest: int, *, tuned: bool):
        super().__init__()
        self.lm, self.longest, self.tuned = lm, longest, tuned
        self.opening = special_ids(lm.config).opening
        width = output_table(lm).shape[1]
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.join, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.ages = nn.Embedding(longest, width)
        self.register_buffer("causal", torch.ones(longest, longest, dtype=torch.bool).triu(1), persistent=False)
        if not tuned:
            lm.requires_grad_(False)

    def states(self, input_ids: Tensor) -> Tensor:
        """(B, L) tokens -> (B, L+1, D): state t has read the t tokens before token t."""
        read = F.pad(input_ids, (1, 0), value=self.opening)
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            return trunk_of(self.lm)(read, use_cache=False).last_hidden_state

    def read(self, input_ids: Tensor, ages: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """What predicts each token.

        Args:
            input_ids, ages: (B, T) tokens, and how many of its piece stand before each.
            states: (B, T, D), or (B, 1, D) for all: the trunk's where the piece begins.
            mask: (T, T) or (B * heads, T, T), True where a token does not look.
        """
        table = output_table(self.lm)
        before = table[F.pad(input_ids, (1, 0))[:, :-1]] * (ages > 0).unsqueeze(-1)
        return self.norm(self.layer(before + self.join(states) + self.ages(ages), src_mask=mask))

    def loss(self, input_ids: Tensor, attention_mask: Tensor, begins: Tensor) -> Tensor:
        """Mean nats of a token, read as a piece's; that of the language model is added where it learns.

        Args: begins: (B, L) bool, tokens with which a piece begins.
        """
        index = torch.arange(input_ids.shape[1], device=input_ids.device)
        begins = begins.clone()
        begins[:, 0] = True
        first = torch.where(begins, index, 0).cummax(1).values
        first = index - (index - first) % self.longest  # (B,L)
        states = self.states(input_ids)  # (B,L+1,D)
        of_piece = states.gather(1, first.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        mask = (first.unsqueeze(2) != first.unsqueeze(1)) | (index[:, None] < index)
        hidden = self.read(
            input_ids, index - first, of_piece, mask.repeat_interleave(self.layer.self_attn.num_heads, 0)
        )
        real, table = attention_mask.bool(), output_table(self.lm)
        targets = input_ids[real]
        loss = vocabulary_loss(hidden[real], table, targets).loss
        if self.tuned:
            loss = loss + vocabulary_loss(states[:, :-1][real], table, targets).loss
        return loss / real.sum()


def train_reader(
    reader: StaleReader, documents: Sequence[np.ndarray], context: int, num_tokens: int, seed: int, rate: float = 2e-3
) -> Iterator[tuple[int, float]]:
    """Train on about so many tokens of the documents; yields tokens read and the loss of each step."""
    cut = [document[a:b] for document in documents for a, b in training_windows(len(document), context - 1)]
    rng, batch_size = np.random.default_rng(seed), 8
    steps = max(2, num_tokens // max(1, batch_size * sum(map(len, cut)) // len(cut)))
    optimizer = torch.optim.AdamW([p for p in reader.parameters() if p.requires_grad], rate, betas=(0.9, 0.95))
    rises = 0.1 if steps != 10 else 0.11  # PyTorch divides by the steps of the rise less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=rises)
    order: list[int] = []
    read = 0
    device = next(reader.parameters()).device
    for _ in range(steps):
        if len(order) < batch_size:
            order += rng.permutation(len(cut)).tolist()
        chosen, order = order[:batch_size], order[batch_size:]
        input_ids, attention_mask = pad_tokens([cut[i] for i in chosen], 0)
        begins = torch.from_numpy(rng.random(input_ids.shape) < rng.uniform(*SHARES, (len(input_ids), 1)))
        loss = reader.loss(input_ids.to(device), attention_mask.to(device), begins.to(device))
        if not torch.isfinite(loss):
            raise ValueError(f"The loss of the reader is {loss.item()} after {read:,} tokens: train it on other text.")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        read += int(attention_mask.sum())
        yield read, loss.item()


class DocumentCosts:
    """What the tokens of a document cost, by where their piece begins.

    Args: ids: (N,) its tokens. context: positions of a window that the trunk reads. longest: tokens of a piece.
    """

    def __init__(self, reader: StaleReader, ids: np.ndarray, context: int, longest: int):
        assert longest <= reader.longest
        self.reader, self.size, self.longest = reader, len(ids), longest
        self.ids = torch.from_numpy(ids.astype(np.int64)).to(next(reader.parameters()).device)
        self.rows: dict[int, np.ndarray] = {}  # first token of a piece -> (longest,) nats of the tokens from there on
        parts, entropies = [], []
        with inference(reader):
            table = output_table(reader.lm)
            for window in windows(len(ids), context - 1) if len(ids) else []:
                states = reader.states(self.ids[None, window.start : window.stop])[0, :-1]
                parts.append(states[window.scored - window.start :])
                for some in parts[-1].split(ROWS):
                    log_probs = (some @ table.T).float().log_softmax(-1)
                    entropies.append(-(log_probs.exp() * log_probs).sum(-1).cpu().numpy())
        self.states = torch.cat(parts)  # (N,D)
        self.entropies = np.concatenate(entropies)  # (N,) nats: how uncertain the trunk is of each token

    def of(self, starts: Sequence[int]) -> np.ndarray:
        """(len(starts), longest) nats of the tokens that follow each start, 0 behind the end."""
        missing = [start for start in starts if start not in self.rows]
        for i in range(0, len(missing), ROWS):
            self._measure(missing[i : i + ROWS])
        return np.stack([self.rows[start] for start in starts])

    def _measure(self, starts: list[int]) -> None:
        reader, steps = self.reader, torch.arange(self.longest, device=self.ids.device)
        first = torch.tensor(starts, device=self.ids.device)
        places = first[:, None] + steps  # (n,T)
        real = places < self.size
        input_ids = self.ids[places.clamp(max=self.size - 1)]
        mask = reader.causal[: self.longest, : self.longest]
        with inference(reader):
            hidden = reader.read(input_ids, steps.expand_as(places), self.states[first][:, None], mask)
            found = torch.zeros(places.shape, device=places.device)
            found[real] = token_nats(hidden[real], output_table(reader.lm), input_ids[real])
        self.rows.update(zip(starts, found.cpu().numpy(), strict=True))
