"""Is what drafting writes what head 1 writes alone? Greedy texts token by token, sampled ones by a chi-square test.

B texts, L tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch

from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.inference import inference_method
from multitoken.benchmarks.measuring import PLAIN, Way, write
from multitoken.multi_token_lm import MultiTokenLM
from multitoken.speculation import SpeculationStatistics

TIE = 1e-4  # logits this close are in an order that rounding decides
LEAST_P_VALUE = 1e-3  # below it, sampled texts are not the model's
SEQUENCE = 3  # tokens of a sampled text that are compared
LEAST_EXPECTED = 5.0  # draws in a cell
REST = -1  # in a cell's name: any token that is not named there
LOGITS_HELD = 2**25  # numbers, in a batch of draws


@dataclass
class Difference:
    """Where a text that was drafted parts from the one that was not."""

    prompt: int  # its number
    position: int  # among the new tokens, counted from 0
    plain: int  # token ids; -1: the text was over
    drafted: int
    gap: float | None  # from the verifier's highest logit there to the lower one of these two; None: a text was over

    @property
    def is_tie(self) -> bool:
        return self.gap is not None and self.gap <= TIE


@inference_method
def differences(
    model: MultiTokenLM, prompts: Sequence[list[int]], plain: Sequence[list[int]], drafted: Sequence[list[int]]
) -> list[Difference]:
    """One for each prompt whose new ids, end mark included, are not equal."""
    found = []
    for number, (prompt, a, b) in enumerate(zip(prompts, plain, drafted, strict=True)):
        if a == b:
            continue
        pairs = list(zip_longest(a, b, fillvalue=-1))
        position = next(i for i, (x, y) in enumerate(pairs) if x != y)
        ids = torch.tensor([prompt + a[:position]], device=model.device)
        logits = model.logits(ids)[0, -1].double()
        pair = pairs[position]
        gap = None if min(pair) < 0 else float(logits.max() - logits[list(pair)].min())
        found.append(Difference(number, position, *pair, gap))
    return found


@dataclass
class Comparison:
    """Texts of one way and batch size against those that plain decoding writes for each prompt alone."""

    parted: dict[str, list[Difference]] = field(default_factory=dict)  # by dtype
    statistics: SpeculationStatistics = field(default_factory=SpeculationStatistics)  # of the first dtype

    def faults(self, dtype: str) -> list[Difference]:
        """Differences that rounding does not excuse: all in fp64, those that are no ties in fp32, none in bf16."""
        if dtype == "bf16":
            return []
        return [found for found in self.parted[dtype] if dtype == "fp64" or not found.is_tie]

    @property
    def verdict(self) -> str:
        told = [f"{len(faults)} differ in {dtype}" for dtype in self.parted if (faults := self.faults(dtype))]
        return f"NO: {', '.join(told)}" if told else "yes"


def compare_texts(
    model: MultiTokenLM,
    prompts: Sequence[list[int]],
    ways: Sequence[Way],
    batch_sizes: Sequence[int],
    new_tokens: int,
    dtypes: Sequence[str],
) -> dict[tuple[str, int], Comparison]:
    """Greedy texts of all ways, by their name and batch size. The model ends in the last dtype."""
    compared: dict[tuple[str, int], Comparison] = {}
    for dtype in sorted(dtypes, key=list(DTYPES).index):  # precision is lost on the way to bf16 and not before
        moved(model, dtype=DTYPES[dtype])
        alone = write(model, prompts, PLAIN, 1, new_tokens)
        for batch_size in batch_sizes:
            for way in ways:
                again = way != PLAIN or batch_size > 1
                written = write(model, prompts, way, batch_size, new_tokens) if again else alone
                entry = compared.setdefault((way.name, batch_size), Comparison(statistics=written.statistics))
                entry.parted[dtype] = differences(model, prompts, alone.ids, written.ids)
    return compared


@dataclass
class SamplingTest:
    num_draws: int
    num_cells: int
    p_value: float | None  # None where there is one cell only: as good as greedy

    @property
    def verdict(self) -> str:
        if self.p_value is None:
            return "not tested"
        return "yes" if self.p_value > LEAST_P_VALUE else f"NO: p = {self.p_value:.1e}"


def sampling_test(
    model: MultiTokenLM,
    prompt: list[int],
    way: Way,
    temperature: float,
    num_draws: int,
    num_ranks: int = 6,
    seed: int = 0,
) -> SamplingTest:
    """Chi-square of drafted texts against the probabilities of head 1, enumerated.

    Compared are the first 3 tokens after one prompt; more are written, so that the first draft is as long as ever. A
    cell is one sequence of tokens that are each among the `num_ranks` likeliest, or one such beginning and any other
    token after it; cells with fewer than 5 expected draws are taken together. End marks are held back.
    """
    expected = _cells(model, prompt, temperature, num_ranks)
    beginnings = {cell[:length] for cell in expected for length in range(1, SEQUENCE + 1)}
    counts = dict.fromkeys(expected, 0)
    new_tokens = SEQUENCE + len(model.heads)
    rows = 1 if way.tree is None else len(way.tree.nodes)
    batch_size = max(1, min(512, LOGITS_HELD // (max(rows, len(model.heads)) * model.config.vocab_size)))
    for start in range(0, num_draws, batch_size):
        size = min(batch_size, num_draws - start)
        options = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, min_new_tokens=new_tokens)
        # Text b of a call draws from seed + 7919 b, and 7919 is prime: no two texts of a test share their noise.
        written = write(model, [prompt] * size, way, size, new_tokens, seed=seed * 10**9 + start, **options)
        for ids in written.ids:
            named = next((n for n in range(SEQUENCE) if tuple(ids[: n + 1]) not in beginnings), SEQUENCE)
            counts[(*ids[:named], *[REST] * (named < SEQUENCE))] += 1
    return _chi_square(counts, expected, num_draws)


@inference_method
def _cells(model: MultiTokenLM, prompt: list[int], temperature: float, num_ranks: int) -> dict[tuple[int, ...], float]:
    """Probability of each cell of the first tokens after a prompt; together 1."""
    cells: dict[tuple[int, ...], float] = {}
    begun: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(SEQUENCE):
        ids = torch.tensor([[*prompt, *beginning] for beginning in begun], device=model.device)
        logits = model.logits(ids)[:, -1].double()  # (beginnings,V)
        logits[:, model.config.eos_token_id] = -torch.inf
        likeliest = (logits / temperature).softmax(-1).topk(min(num_ranks, logits.shape[-1] - 1))
        grown: dict[tuple[int, ...], float] = {}
        for (beginning, probability), *pair in zip(
            begun.items(), likeliest.values.tolist(), likeliest.indices.tolist(), strict=True
        ):
            cells[*beginning, REST] = probability * max(1 - sum(pair[0]), 0.0)
            grown |= {(*beginning, token): probability * share for share, token in zip(*pair, strict=True)}
        begun = grown
    return cells | begun


def _chi_square(
    counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float], num_draws: int
) -> SamplingTest:
    pairs = sorted(((p * num_draws, counts[cell]) for cell, p in expected.items()), reverse=True)
    cells = [[e, float(o)] for e, o in pairs if e >= LEAST_EXPECTED]
    rare = [sum(column) for column in zip(*(pair for pair in pairs if pair[0] < LEAST_EXPECTED), strict=True)]
    if rare and (rare[0] >= LEAST_EXPECTED or not cells):
        cells.append(rare)
    elif rare:
        cells[-1] = [cells[-1][0] + rare[0], cells[-1][1] + rare[1]]
    if len(cells) < 2:
        return SamplingTest(num_draws, len(cells), None)
    distance = sum((o - e) ** 2 / e for e, o in cells)
    halves = torch.tensor([(len(cells) - 1) / 2, distance / 2], dtype=torch.float64)
    return SamplingTest(num_draws, len(cells), float(torch.special.gammaincc(*halves)))
