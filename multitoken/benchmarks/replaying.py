"""Wall clock of drafting at sizes whose trained weights are not at hand: random weights, replayed acceptance.

Weights do not change how long a step takes, only how often drafts come true. So drafts are made and verified as ever,
and what verifying finds is replaced: of each draft as many tokens are accepted as a trained model accepted.

B texts, R rows of a pass, D width.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lmbase.benchmarking.timing import (
    Arrivals,
    Generation,
    alternate,
    compared_settings,
    drafting_columns,
    median,
    ratio_columns,
    speeds,
    time_lm,
)
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.trunk import random_config
from lmbase.report.rows import Row, read_metrics
from multitoken.benchmarks.measuring import position_bytes
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.draft_loop import DraftLoop, Read
from multitoken.draft_tree import DraftTree
from multitoken.multi_token_lm import MultiTokenLM
from multitoken.transitions import Ahead

FIRST_WORD = 4  # below are special tokens


class ReplayedLM(MultiTokenLM):
    """A model with random weights that accepts as many drafts as it is told."""

    _counts: Iterator[int] = itertools.repeat(0)

    def replay(self, counts: Sequence[int]) -> None:
        """Accept so many tokens of the drafts to come, in turn, over and over; fewer where a draft is shorter."""
        self._counts = itertools.cycle(counts)

    def draft_loop(self, *args) -> DraftLoop:
        return ReplayedLoop(self._counts, *args)


class ReplayedLoop(DraftLoop):
    """Drafts are made and verified as ever, and then what the model chose is replaced.

    Args:
        counts: draft tokens accepted in each pass, without end; fewer where a draft is shorter.
    """

    def __init__(self, counts: Iterator[int], *args):
        super().__init__(*args)
        self.counts = counts

    def _choose(self, read: Read, guesses: list[list[list[int]]]) -> tuple[list[list[int]], Ahead]:
        chosen, heads = super()._choose(read, guesses)
        return [self.replayed(b, between, chosen[b]) for b, between in enumerate(guesses)], heads

    def replayed(self, b: int, between: list[list[int]], chosen: list[int]) -> list[int]:
        """What is to be chosen after each row instead of `chosen`: draft tokens along a path, then a token that was not
        drafted. Where nothing was drafted it is the model's choice."""
        if len(between) == 1:
            return chosen
        drafted = [path[-1] if path else 0 for path in between]
        return choices_that_accept(next(self.counts), drafted, self.guessed.children, never=self.reader.end)


def choices_that_accept(
    count: int, drafted: Sequence[int], children: Sequence[Sequence[int]], never: int | None = None
) -> list[int]:
    """What to choose after each row (R,) of a draft so that `count` tokens of it are accepted: the first draft token
    below each row of a path, then a token that was not drafted.

    Args:
        drafted: the token that each row read. children: for each row those one step below.
        never: a draft token that is not accepted.
    """
    row, chosen = 0, [FIRST_WORD] * len(drafted)
    while count > 0 and children[row] and drafted[children[row][0]] != never:
        following = children[row][0]
        chosen[row] = drafted[following]
        row, count = following, count - 1
    below = {drafted[child] for child in children[row]}
    chosen[row] = next(token for token in itertools.count(FIRST_WORD) if token not in below)
    return chosen


# -- acceptance that was measured --------------------------------------------------------------------------------------


@dataclass
class Acceptance:
    """What one way of drafting found on a trained model."""

    way: str
    num_draft: int | str
    counts: list[int]  # draft tokens accepted, one entry for each draft, in random order
    tree: DraftTree | None = None


@dataclass
class MeasuredDrafts:
    """What a trained model accepted of its draft tokens."""

    model: str
    num_future_tokens: int
    draft_transitions: bool
    ways: list[Acceptance]


def read_acceptance(path: str, seed: int = 0) -> MeasuredDrafts:
    """From the metrics.json that `sllm drafting` wrote, every way that it drafted in, texts one by one. `auto` replays
    what its longest draft found.

    Raises:
        ValueError: another recipe's file.
    """
    rows = [
        row
        for row in read_metrics(path)["rows"]
        if row.protocol == "drafting" and row.extra.get("accepted_counts") and row.extra.get("batch_size") == 1
    ]
    chains = [row for row in rows if isinstance(row.extra["num_draft"], int) and not row.extra.get("draft_tree")]
    if not chains:
        raise ValueError(
            f"acceptance_from={path!r}: no drafts of single texts in it; give the folder or the metrics.json that "
            "`sllm drafting` wrote, with 1 among its batch_size."
        )
    longest = max(chains, key=lambda row: row.extra["num_draft"])
    trees = [row for row in rows if isinstance(row.extra["num_draft"], int) and row.extra.get("draft_tree")]
    found = []
    for row in rows:
        paths = row.extra.get("draft_tree")
        tree = DraftTree(tuple(tuple(path) for path in paths)) if paths else None
        source = row
        if row.extra["num_draft"] == "auto":
            source = next((other for other in trees if other.extra["draft_tree"] == paths), longest)
        counts = [count for count, times in enumerate(source.extra["accepted_counts"]) for _ in range(times)]
        random.Random(seed).shuffle(counts)
        found.append(Acceptance(row.extra["way"], row.extra["num_draft"], counts, tree))
    return MeasuredDrafts(
        longest.model, longest.extra["num_draft"], bool(longest.extra.get("draft_transitions")), found
    )


# -- rows --------------------------------------------------------------------------------------------------------------


def new_replayed(size: str, drafts: MeasuredDrafts, vocab_size: int, seed: int) -> ReplayedLM:
    """As many heads on a model of a size as `MultiTokenLM.from_lm` would set: head 1 is its last block, the others come
    on top."""
    config = MultiTokenLMConfig.matching(random_config(f"random:{size}", vocab_size=vocab_size, max_positions=2048), 1)
    config.num_future_tokens, config.draft_transitions = drafts.num_future_tokens, drafts.draft_transitions
    torch.manual_seed(seed)
    return ReplayedLM(config)


@dataclass(frozen=True)
class Replay:
    """What is written in the subset `replay`, and how often."""

    prompt_tokens: int
    new_tokens: int
    num_rounds: int
    dtype: str
    device: str
    compiled: bool = False  # everything once more with compiled steps


def measure_replay(model: ReplayedLM, name: str, ways: Sequence[Acceptance], replay: Replay, source: str) -> list[Row]:
    """Greedy writing of one text: the same model by Transformers' `generate`, plain decoding, every way of drafting,
    and `auto` where no draft token ever comes true, all in turn.

    Args:
        name: of the model in its rows. source: of the trained model whose acceptance is replayed.
    """
    moved(model, replay.device, DTYPES[replay.dtype]).eval()
    words = torch.randint(FIRST_WORD, model.config.vocab_size, (replay.prompt_tokens,))
    prompt = torch.tensor([[model.ids.opening, *words.tolist()]], device=model.device)  # (1,L)
    lm = model.to_lm()
    plain = Acceptance("plain", 1, [0])
    worst = Acceptance("auto, nothing accepted", "auto", [0])
    runners: dict[str, Callable[[], Generation]] = {}
    for kind, settings in compared_settings(replay.compiled, prompt.device.type).items():
        runners["Transformers" + kind] = partial(time_lm, lm, prompt, replay.new_tokens, **settings)
        for way in (plain, *ways, worst):
            runners[way.way + kind] = partial(_time_replay, model, way, prompt, replay.new_tokens, **settings)
    found = alternate(runners, replay.num_rounds)
    rows = []
    for name_of_way, runs in found.items():
        extra: dict = {"way": name_of_way, **drafting_columns(runs)}
        for prefix, baseline in (("speed_ratio", "Transformers"), ("plain_ratio", plain.way)):
            extra |= ratio_columns(prefix, speeds(runs), speeds(found[baseline]))
        rows.append(
            Row(
                model=name,
                protocol=f"replay {replay.prompt_tokens}+{replay.new_tokens}, acceptance of {source}",
                dtype=replay.dtype,
                device=replay.device,
                tokens_per_second=median(speeds(runs)),
                kv_bytes_per_token=median([run.cache_bytes_per_token for run in runs]),
                extra=extra,
            )
        )
    return rows


def _time_replay(model: ReplayedLM, way: Acceptance, prompt: Tensor, num_new_tokens: int, **settings) -> Generation:
    model.replay(way.counts)
    arrivals = Arrivals()
    output = model.generate(
        prompt,
        torch.ones_like(prompt),
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        num_draft=way.num_draft,
        tree=way.tree,
        streamer=arrivals,
        **settings,
    )
    cached = output.sequences.shape[1] - 1  # the last token was written, and not read
    return Generation(
        arrivals.seconds,
        seconds_to_first_sentence=0.0,
        num_new_tokens=output.num_new_tokens[0],
        cache_bytes=position_bytes(model, drafts=way.num_draft != 1) * cached,
        num_cached_tokens=cached,
        num_cached_positions=cached,
        tokens_per_forward=output.statistics.tokens_per_forward,
    )
