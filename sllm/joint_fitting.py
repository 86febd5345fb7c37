"""Where a graft by own layers begins: joints whose states come as near as linear maps can to those of the language
model that it was made of, at every token, by least squares. Without gradients, in two passes over some text.

B texts, S sentences of one, L tokens of the longest text, R rows of one: its L+1 tokens and the S last ones of its
sentences once more, N rows of all, F features of a row, H width of a state.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lmbase.modeling.stages import band, embed, run_blocks
from lmbase.training.batches import Batch
from sllm.modeling_sllm import SLLMModel

RIDGE = 0.01  # of a feature's own mean square
NEWTON_STEPS = 8
FIRST = 8  # tokens of a text that are left out: the first states of pretrained models are unlike all others


@dataclass
class JointFit:
    """How near a fit came: mean squared distance between states over that of the language model's states from 0."""

    num_tokens: int
    before: float
    after: float


class LeastSquares:
    """The linear map from features (N, F) to states (N, H) that is best for all tokens added."""

    def __init__(self) -> None:
        self.squares: Tensor | float = 0.0  # (F, F)
        self.products: Tensor | float = 0.0  # (F, H)
        self.num_tokens = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        # As what follows is normalised, a token counts by how far its state is off in proportion to its size.
        size = targets.norm(dim=-1, keepdim=True).double()
        features, targets = features.double() / size, targets.double() / size
        self.squares = self.squares + features.T @ features
        self.products = self.products + features.T @ targets
        self.num_tokens += len(targets)

    def solve(self) -> tuple[Tensor, float]:
        """The map (F, H), and the sum of its squared distances, each in proportion to its target."""
        assert isinstance(self.squares, Tensor)
        assert isinstance(self.products, Tensor)
        own = self.squares.diagonal()
        ridge = RIDGE * own + 1e-6 * own.mean()  # a feature that never occurs gets no weight
        found = torch.linalg.solve(self.squares + ridge.diag(), self.products)
        apart = (found * (self.squares @ found - 2 * self.products)).sum().item() + self.num_tokens
        return found.float(), apart


@dataclass
class _Tokens:
    """N tokens of a batch."""

    states: Tensor  # (N, H) of the lower blocks
    ends: Tensor  # (N, H) the same at the end of the latest sentence that the trunk has read
    trunk: Tensor  # (N, H) the trunk's state there
    first: Tensor  # (N, 1) that is the opening token
    offsets: Tensor  # (N,) tokens since then
    read: Tensor  # (N, H) what the upper blocks read
    targets: Tensor  # (N, H) what those of the language model do


@torch.no_grad()
def fit_joints(model: SLLMModel, batches: Iterable[Batch]) -> JointFit:
    """Set A, J, O and h_0 (`sllm.own_layers`) to what brings the upper blocks' inputs nearest to the language model's.

    Args:
        model: fresh from `SLLM.graft_own_layers`. Afterwards it no longer is the language model at one token a
            sentence.
        batches: what its `forward` takes; some 50,000 tokens in all are enough for a width of 576.

    Raises:
        ValueError: they hold too few tokens, or the model is no graft by own layers.
    """
    if model.own is None:
        raise ValueError("Only the joints of a graft by own layers are fitted; this model has an autoencoder.")
    own, width = model.own, len(model.own.opening)
    inside, at_end, before = LeastSquares(), LeastSquares(), 0.0
    for batch in batches:
        tokens = _tokens(model, batch)
        apart = (tokens.read - tokens.targets).double().norm(dim=-1) / tokens.targets.double().norm(dim=-1)
        before += (apart**2).sum().item()
        behind = tokens.offsets > 0
        known = ~tokens.first * torch.cat([tokens.trunk, tokens.ends], dim=1)  # (N,2H)
        places = F.one_hot((tokens.offsets - 1).clamp(min=0), len(own.offsets)).float()
        features = torch.cat([tokens.states, known, places, tokens.first], dim=1)
        inside.add(features[behind], tokens.targets[behind])
        constant = torch.ones_like(tokens.states[:, :1])
        at_end.add(torch.cat([known, constant], dim=1)[~behind], tokens.targets[~behind])
    num_tokens = inside.num_tokens + at_end.num_tokens
    if at_end.num_tokens < 2 * width:
        raise ValueError(
            f"{num_tokens} tokens with {at_end.num_tokens} sentence ends are too few to fit the joints of a model of "
            f"width {width}, which takes {2 * width} ends: give more text or a larger fit_tokens, or fit_tokens 0 to "
            "begin without."
        )
    (of_tokens, apart_inside), (of_ends, apart_at_end) = inside.solve(), at_end.solve()
    a, j, o, h = of_tokens.split([width, 2 * width, len(own.offsets), 1])
    own.carry.weight.copy_(a.T)
    own.joint.weight.copy_(torch.cat([of_ends[:-1].T, j.T]))
    own.joint.bias.copy_(torch.cat([of_ends[-1], torch.zeros_like(of_ends[-1])]))
    own.offsets.copy_(o)
    own.opening.copy_(h[0])
    return JointFit(num_tokens, before / num_tokens, (apart_inside + apart_at_end) / num_tokens)


def _tokens(model: SLLMModel, batch: Batch) -> _Tokens:
    """What the upper blocks read in a batch, without the first tokens of its texts: each token once with the trunk's
    latest state, the last ones of sentences once more with the state before."""
    own, trunk = model.own, model.trunk
    assert own is not None
    ids, mask, sentence_mask = (
        batch[name].to(model.device) for name in ("input_ids", "attention_mask", "sentence_mask")
    )
    sentences = own.read(trunk, ids, mask, sentence_mask)
    states = own.trunk_states(trunk, sentences, sentence_mask)  # (B,S+1,H)
    (b, num_rows), num_states = sentences.flat.shape, states.shape[1]
    place = torch.arange(num_rows, device=states.device).expand(b, -1)
    blocks = [*own.lower(trunk), *own.middle(trunk)]
    visible = band(num_rows, num_rows, states.device)[None, None]
    targets = run_blocks(trunk, blocks, embed(trunk, sentences.flat, place), visible, place)  # (B,L+1,H)
    ends = sentences.ends_by_state(num_states - 1)
    state, offsets = own.latest(sentences, num_states)
    again = torch.arange(num_states - 1, device=states.device).expand(b, -1)  # (B,S)
    place = torch.cat([place, ends[:, 1:]], dim=1)  # (B,R), R = L+1+S
    state = torch.cat([state, again], dim=1)
    offsets = torch.cat([offsets, ends[:, 1:] - ends[:, :-1]], dim=1)
    counts = mask.sum((1, 2))[:, None]
    wanted = (place >= FIRST) & (place <= counts)
    rows, at = wanted.nonzero(as_tuple=True)
    place, state, offsets = place[rows, at], state[rows, at], offsets[rows, at]  # (N,)
    at_end, carried = (each[rows, state] for each in own.joined_at(sentences, states))
    own_states, end = sentences.states[rows, place], ends[rows, state]
    return _Tokens(
        own_states,
        sentences.states[rows, end],
        states[rows, state],
        (end == 0)[:, None],
        offsets,
        own.upper_inputs(own_states, at_end, carried, offsets),
        targets[rows, place],
    )


@torch.no_grad()
def fit_flags(model: SLLMModel, batches: Iterable[Batch]) -> None:
    """Set the flag that ends a sentence to what logistic regression makes of the upper blocks' states, and the flag
    that ends a text to how often texts end.

    Args:
        model, batches: as for `fit_joints`, which goes first.
    """
    hidden, ends, num_states, num_stops = [], [], 0, 0
    for batch in batches:
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "sentence_mask")}
        sentences = model.read(**inputs)
        num_states += int(inputs["sentence_mask"].sum()) + len(inputs["input_ids"])
        num_stops += int((~batch["continues"]).sum())
        for decoded in model.decode(sentences, model.trunk_states(sentences, inputs["sentence_mask"])):
            wanted = decoded.cut.mask & ~decoded.cut.first
            hidden.append(decoded.hidden[wanted].float())
            ends.append(decoded.cut.targets[wanted] == model.config.eos_token_id)
    model.stop_head.bias.fill_(_log_odds(num_stops, num_states))
    if model.end_head is None:
        return
    x, y = torch.cat(hidden), torch.cat(ends).float()  # (N,D), (N,)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    weight = torch.zeros_like(x[0])
    weight[-1] = _log_odds(int(y.sum()), len(y))
    ridge = (RIDGE * (x**2).mean(0)).diag()
    ridge[-1, -1] = 0.0
    for _ in range(NEWTON_STEPS):
        p = (x @ weight).sigmoid()
        slope = x.T @ (p - y) / len(y) + ridge @ weight
        weight -= torch.linalg.solve((x * (p * (1 - p))[:, None]).T @ x / len(y) + ridge, slope)
    model.end_head.weight.copy_(weight[None, :-1])
    model.end_head.bias.fill_(weight[-1])


def _log_odds(count: int, total: int) -> float:
    return math.log((count + 0.5) / (total - count + 0.5))
