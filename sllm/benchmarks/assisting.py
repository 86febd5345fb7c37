"""What an SLLM brings the token-level model that it drafts for: of a trained pair, and replayed at two other sizes.

Texts are written one by one, end marks held back. L tokens of a prompt, its opening `</s>` among them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmbase.benchmarking.timing import Arrivals, Generation, alternate, drafting_columns, median, ratio_columns, speeds
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.trunk import special_ids
from lmbase.report.rows import Row
from lmbase.text.tokenizers import tokenizer_hash
from multitoken.benchmarks.measuring import accepted_counts, spread_prompts
from multitoken.speculation import SpeculationStatistics
from sllm.assistant import SentenceAssistant
from sllm.benchmarks.build import Build
from sllm.benchmarks.replaying import ReplayedAssistant
from sllm.loading import load_model
from sllm.sllm import SLLM

NUM_PROMPTS = 16  # of a trained pair


@dataclass(frozen=True)
class Trial:
    """What is written and how: after prompts of so many tokens so many new ones, with each number of draft tokens."""

    prompt_tokens: int
    new_tokens: int
    num_guesses: Sequence[int]  # draft tokens of a pass, at most
    num_rounds: int
    temperature: float | None = None  # of the trained model's draws; None: greedy

    @property
    def protocol(self) -> str:
        drawn = "" if self.temperature is None else f", temperature {self.temperature:g}"
        return f"assist {self.prompt_tokens}+{self.new_tokens}{drawn}"


@dataclass(frozen=True)
class Pair:
    """A trained token-level model and the trained SLLM that drafts for it."""

    names: tuple[str, str]
    lm: PreTrainedModel
    sllm: SLLM

    def prompts(self, texts: Sequence[str], num_prompts: int, num_tokens: int) -> list[list[int]]:
        tokenizer = self.sllm.processor.tokenizer
        return spread_prompts(tokenizer, texts, num_prompts, num_tokens, special_ids(self.lm.config).opening)

    def on(self, build: Build) -> Build:
        """The build with what this SLLM has beside its trunk, and room for the tokenizer."""
        config = self.sllm.config
        layers = {name: getattr(config.autoencoder, name) for name in ("num_encoder_layers", "num_decoder_layers")}
        limits = {name: getattr(config, name) for name in ("max_sentences", "max_sentence_tokens")}
        return replace(self.fitting(build).like(config), **layers, **limits)

    def fitting(self, build: Build) -> Build:
        return replace(build, vocab_size=max(build.vocab_size, self.sllm.config.vocab_size))


def load_pair(specs: Sequence[str] | None, device: str) -> Pair:
    """The token-level model and the SLLM that two specs name.

    Raises:
        ValueError: not two, other kinds of model, or two tokenizers.
    """
    told = (
        f"assist_pair={specs}: two are needed, a trained token-level model and after it a trained SLLM with the same "
        "tokenizer, as in `--assist_pair runs/lm runs/sllm`."
    )
    if specs is None or len(specs) != 2:
        raise ValueError(told)
    helped, helper = map(load_model, specs)
    if not helped.plain or not helper.by_sentence:
        raise ValueError(f"{told} These are {helped.shown} and {helper.shown}.")
    if tokenizer_hash(helped.tokenizer) != tokenizer_hash(helper.tokenizer):
        raise ValueError(f"{told} The tokenizers of these differ.")
    return Pair((helped.name, helper.name), moved(helped.model, device), moved(helper.model, device))


def measure_assisting(
    pair: Pair, texts: Sequence[str], builds: Sequence[Build], trial: Trial, dtype: str, common: dict
) -> list[Row]:
    """Rows of the trained pair in fp32 after prompts spread over the texts, then of random weights in `dtype`.

    Args:
        builds: of the model that is assisted, and of the SLLM that drafts.
        common: columns of every row.

    Raises:
        ValueError: not two builds, more tokens than there are positions, or too few to count passes.
    """
    if len(builds) != 2:
        raise ValueError(
            f"size={[build.size for build in builds]}: the subset `assist` takes two, that of the model that is "
            "assisted and that of the SLLM's trunk, as in `--size opt-1.3b opt-125m`."
        )
    positions = pair.lm.config.max_position_embeddings
    if trial.prompt_tokens + trial.new_tokens > positions:
        raise ValueError(
            f"prompt_tokens={trial.prompt_tokens}, new_tokens={trial.new_tokens}: {pair.names[0]} has {positions} "
            "positions, </s> takes one, and the last token none. Lower one of the two."
        )
    most = max(trial.num_guesses)
    if trial.new_tokens < most + 2:
        raise ValueError(
            f"new_tokens={trial.new_tokens}, num_guesses={most}: the pass over the prompt, which is not counted, "
            "may write all of them. Write more."
        )
    rows, counts = measure_pair(pair, texts, trial, common)
    return rows + replay_pair(pair, texts, builds, counts, trial, dtype, common)


# -- a trained pair ----------------------------------------------------------------------------------------------------


def measure_pair(
    pair: Pair, texts: Sequence[str], trial: Trial, common: dict
) -> tuple[list[Row], dict[int, list[int]]]:
    """Rows of the token-level model alone and with each number of draft tokens; by that number, the draft tokens
    accepted in each pass. A pass without a draft, as behind a sentence's end, accepted none."""
    lm, (helped, helper) = pair.lm, pair.names
    ids = pair.prompts(texts, NUM_PROMPTS, trial.prompt_tokens)
    prompts = [torch.tensor([prompt], device=lm.device) for prompt in ids]  # (1,L) each
    names = {k: f"{helped}, {helper} drafts {k}" for k in trial.num_guesses}
    write = partial(time_writing, lm, prompts, trial.new_tokens, temperature=trial.temperature)
    runners: dict[str, Callable[[], Writing]] = {helped: write}
    for k, name in names.items():
        runners[name] = partial(write, assistant=SentenceAssistant(pair.sllm, k))
    found = alternate(runners, trial.num_rounds)
    alone = found[helped][0].ids
    columns: dict[str, dict[str, Any]] = {}
    counts: dict[int, list[int]] = {}
    for k, name in names.items():
        written, statistics = found[name][0].ids, found[name][0].statistics
        equal = sum(a == b for a, b in zip(written, alone, strict=True))
        columns[name] = {"num_guesses": k, "prompts": len(prompts), "equal_texts": equal}
        columns[name] |= {f"acceptance_{i}": rate for i, rate in enumerate(statistics.acceptance, start=1)}
        with_draft = accepted_counts(statistics)
        counts[k] = [count for count, times in enumerate(with_draft) for _ in range(times)]
        counts[k] += [0] * (statistics.num_forwards - sum(with_draft))
    return _rows(found, columns, common | dict(protocol=trial.protocol, dtype="fp32")), counts


@dataclass
class Writing(Generation):
    """Texts written one after another, and what drafts brought over all."""

    ids: list[list[int]] = field(default_factory=list)  # of each text, the prompt's first
    statistics: SpeculationStatistics = field(default_factory=SpeculationStatistics)


def time_writing(
    lm: PreTrainedModel,
    prompts: Sequence[Tensor],
    num_new_tokens: int,
    assistant: SentenceAssistant | None = None,
    temperature: float | None = None,
) -> Writing:
    """Transformers' `generate` with its cache, alone or assisted; end marks disabled.

    Args:
        prompts: (1, L) ids of each text.
        temperature: of draws, which are the same in every call; default: greedy.
    """
    written = Writing(0.0, 0.0, 0, 0, 1)
    drawn = dict(do_sample=False) if temperature is None else dict(do_sample=True, temperature=temperature, top_k=0)
    for prompt in prompts:
        torch.manual_seed(0)
        arrivals = Arrivals()
        if assistant is not None:  # Transformers hands no streamer on
            assistant.streamer = arrivals
        output = cast(Any, lm).generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            streamer=arrivals if assistant is None else None,
            custom_generate=assistant,
            **drawn,
        )
        written.seconds += arrivals.seconds
        written.num_new_tokens += num_new_tokens
        written.ids.append(output[0].tolist())
        if assistant is not None:
            written.statistics.include(assistant.statistics)
            written.tokens_per_forward = written.statistics.tokens_per_forward
    return written


# -- other sizes -------------------------------------------------------------------------------------------------------


def replay_pair(
    pair: Pair,
    texts: Sequence[str],
    builds: Sequence[Build],
    counts: dict[int, list[int]],
    trial: Trial,
    dtype: str,
    common: dict,
) -> list[Row]:
    """Rows of a token-level model alone and with an SLLM, both with random weights: what is written is a text's own
    continuation, whose sentences the SLLM reads, and as many draft tokens are accepted as the trained pair accepted.

    The SLLM with random weights sees no end of a sentence, so it always drafts as much as it may: a trained one is
    done earlier there, and what is lost by that counts against assisting.
    """
    big, small = builds
    in_dtype = DTYPES[dtype]
    # the second of three lies inside the texts: openings are titles and lists of chapters
    text = pair.prompts(texts, 3, trial.prompt_tokens + trial.new_tokens)[1]
    device = pair.lm.device
    sllm = moved(pair.on(small).sllm(pair.on(small).lm()), device, in_dtype).eval()
    sllm.processor = pair.sllm.processor
    lm = moved(pair.fitting(big).lm(), device, in_dtype).eval()
    prompt = torch.tensor([text[: 1 + trial.prompt_tokens]], device=device)  # (1,L)
    baseline = big.lm_name
    runners: dict[str, Callable[[], Writing]] = {baseline: partial(time_writing, lm, [prompt], trial.new_tokens)}
    columns: dict[str, dict[str, Any]] = {}

    def write(num_guesses: int) -> Writing:
        assistant = ReplayedAssistant(sllm, num_guesses, text, mixed(counts[num_guesses]))
        return time_writing(lm, [prompt], trial.new_tokens, assistant)

    for k in trial.num_guesses:
        name = f"{baseline}, {small.sllm_name} drafts {k}"
        runners[name] = partial(write, k)
        columns[name] = {"num_guesses": k}
    protocol = f"{trial.protocol}, acceptance of {', '.join(pair.names)}"
    return _rows(alternate(runners, trial.num_rounds), columns, common | dict(protocol=protocol, dtype=dtype))


def mixed(counts: Sequence[int]) -> Iterator[int]:
    """Without end, in an order in which every stretch has nearly the shares of the whole: a run replays few of them."""
    ordered, step = sorted(counts), (5**0.5 - 1) / 2  # multiples of the golden ratio fill 0..1 evenly
    return (ordered[int(i * step % 1 * len(ordered))] for i in itertools.count())


def _rows(found: dict[str, list[Writing]], columns: dict[str, dict[str, Any]], common: dict) -> list[Row]:
    """One of each name, compared with the first."""
    baseline = speeds(next(iter(found.values())))
    rows = []
    for name, runs in found.items():
        extra: dict[str, Any] = ratio_columns("speed_ratio", speeds(runs), baseline) | drafting_columns(runs)
        speed = median(speeds(runs))
        rows.append(Row(model=name, tokens_per_second=speed, extra=extra | columns.get(name, {}), **common))
    return rows
