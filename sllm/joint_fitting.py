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
from sllm.matched_states import FIRST, compared_rows, distances
from sllm.modeling_sllm import SLLMModel
from sllm.unpredicted_ends import without_end

RIDGE = 0.01  # of a feature's own mean square
FEW = 20  # rows
HELD_OUT = 10  # of so many batches one says how good the fit is
ENDS_PER_WIDTH = 4  # sentence ends that a fit takes at least, over a state's width: with fewer it is worse than none
NEWTON_STEPS = 12
HALVINGS = 10
MOST_ODDS = 10.0  # log-odds of a flag: no text says more


@dataclass
class JointFit:
    """How near a fit came, on text that it did not see: mean squared distance between states, each over the squared
    size of the language model's."""

    num_tokens: int
    before: float
    after: float


class LeastSquares:
    """The linear map from features (N, F) to states (N, H) that is best for all rows added."""

    def __init__(self) -> None:
        self.squares = torch.zeros((), dtype=torch.double)  # (F, F) from the first rows on
        self.products = torch.zeros((), dtype=torch.double)  # (F, H)
        self.weights = 0.0  # of all rows
        self.num_rows = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        # As what follows is normalised, a row counts by how far its state is off in proportion to its size.
        size = targets.norm(dim=-1, keepdim=True).double().clamp(min=1e-6)
        features, targets = features.double() / size, targets.double() / size
        self.squares = self.squares + features.T @ features
        self.products = self.products + features.T @ targets
        self.weights += (1 / size**2).sum().item()
        self.num_rows += len(targets)

    def solve(self) -> Tensor:
        """(F, H)."""
        # What is seen in a few rows, such as a distance from the last end, has to be seen in more to count.
        few = FEW * self.weights / max(1, self.num_rows) + 1e-12  # not 0 where nothing was seen
        ridge = RIDGE * self.squares.diagonal() + few
        return torch.linalg.solve(self.squares + ridge.diag(), self.products)

    def apart(self, found: Tensor) -> float:
        """The sum of a map's squared distances, each in proportion to its target."""
        return (found * (self.squares @ found - 2 * self.products)).sum().item() + self.num_rows


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
    inside, at_end = (LeastSquares(), LeastSquares()), (LeastSquares(), LeastSquares())  # learned from, and held out
    before = 0.0
    for number, batch in enumerate(batches):
        held_out = number % HELD_OUT == 1
        tokens = _tokens(model, batch)
        before += held_out * distances(tokens.read.double(), tokens.targets.double()).sum().item()
        behind = tokens.offsets > 0
        known = ~tokens.first * torch.cat([tokens.trunk, tokens.ends], dim=1)  # (N,2H)
        constant = torch.ones_like(tokens.states[:, :1])
        places = F.one_hot((tokens.offsets - 1).clamp(min=0), len(own.offsets)).float()
        features = torch.cat([tokens.states, known, places, tokens.first, constant], dim=1)
        inside[held_out].add(features[behind], tokens.targets[behind])
        at_end[held_out].add(torch.cat([known, constant], dim=1)[~behind], tokens.targets[~behind])
    num_held_out, num_ends = inside[1].num_rows + at_end[1].num_rows, at_end[0].num_rows
    if num_ends < ENDS_PER_WIDTH * width or not num_held_out:
        raise ValueError(
            f"{num_ends} sentence ends are too few to fit the joints of a model of width {width}, which takes "
            f"{ENDS_PER_WIDTH * width}: texts of {FIRST} tokens and more count; give more text, or a larger fit_tokens."
        )
    of_tokens, of_ends = inside[0].solve(), at_end[0].solve()
    fit = JointFit(
        inside[0].num_rows + num_ends,
        before / num_held_out,
        (inside[1].apart(of_tokens) + at_end[1].apart(of_ends)) / num_held_out,
    )
    if fit.after > fit.before:
        return fit
    a, j, o, h, constant = of_tokens.float().split([width, 2 * width, len(own.offsets), 1, 1])
    of_ends = of_ends.float()
    own.carry.weight.copy_(a.T)
    own.joint.weight.copy_(torch.cat([of_ends[:-1].T, j.T]))
    own.joint.bias.copy_(torch.cat([of_ends[-1], constant[0]]))
    own.offsets.copy_(o)
    own.opening.copy_(h[0] + constant[0])
    return fit


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
    blocks = [*own.lower(trunk), *own.between(trunk)]
    visible = band(num_rows, num_rows, states.device)[None, None]
    targets = run_blocks(trunk, blocks, embed(trunk, sentences.flat, place), visible, place)  # (B,L+1,H)
    ends = sentences.ends_by_state(num_states - 1)
    place, state, offsets = own.upper_rows(sentences, num_states)  # (B,R)
    rows, at = compared_rows(place, mask.sum((1, 2))).nonzero(as_tuple=True)
    place, state, offsets = place[rows, at], state[rows, at], offsets[rows, at]  # (N,)
    read, end = own.inputs_of_rows(sentences, states)[rows, at], ends[rows, state]
    return _Tokens(
        sentences.states[rows, place],
        sentences.states[rows, end],
        states[rows, state],
        (end == 0)[:, None],
        offsets,
        read,
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
        num_states += int(batch["sentence_mask"].sum()) + len(batch["input_ids"])
        num_stops += int((~batch["continues"]).sum())
        if model.end_head is None:
            continue
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "sentence_mask")}
        sentences = model.read(**inputs)
        endless = without_end(model.config, inputs["sentence_mask"], batch["continues"].to(model.device))
        states = model.trunk_states(sentences, inputs["sentence_mask"])
        for decoded in model.decode(sentences, states, endless=endless):
            wanted = decoded.cut.mask & ~decoded.cut.first
            hidden.append(decoded.hidden[wanted].float())
            ends.append(decoded.cut.targets[wanted] == model.config.eos_token_id)
    model.stop_head.bias.fill_(_log_odds(num_stops, num_states))
    if model.end_head is None or not hidden:
        return
    with torch.autocast(model.device.type, enabled=False):
        weight = _logistic(torch.cat(hidden), torch.cat(ends).float())
    model.end_head.weight.copy_(weight[None, :-1])
    model.end_head.bias.fill_(float(weight[-1].clamp(-MOST_ODDS, MOST_ODDS)))


def _logistic(x: Tensor, y: Tensor) -> Tensor:
    """Weights (D+1,), the bias last, of the logistic regression of y (N,), 0 or 1, on features (N, D)."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    weight = torch.zeros_like(x[0])
    weight[-1] = _log_odds(int(y.sum()), len(y))
    ridge = RIDGE * (x**2).mean(0)
    ridge[-1] = 0.0
    ridge += 1e-6 * ridge.mean() + 1e-9

    def cost(weight: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(x @ weight, y) + (ridge * weight**2).sum() / 2)

    for _ in range(NEWTON_STEPS):
        p = (x @ weight).sigmoid()
        slope = x.T @ (p - y) / len(y) + ridge * weight
        step = torch.linalg.solve((x * (p * (1 - p))[:, None]).T @ x / len(y) + ridge.diag(), slope)
        # Where p is near 0 or 1 there is hardly a curvature, and a whole step may go far too far.
        shorter, now = (weight - step * 0.5**halvings for halvings in range(HALVINGS)), cost(weight)
        weight = next((found for found in shorter if cost(found) < now), weight)
    return weight


def _log_odds(count: int, total: int) -> float:
    return math.log((count + 0.5) / (total - count + 0.5))
