"""Generation speed: one timed call of an SLLM, and loaded models side by side, as figures for their rows.

Other models are timed by `lmbase.benchmarking.timing.time_lm` and `multitoken.benchmarks.measuring.time_mtp`.

B texts, S sentences, T tokens of a sentence.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from torch import Tensor

from lmbase.benchmarking.timing import (
    Arrivals,
    Generation,
    alternate,
    cache_bytes,
    drafting_columns,
    known_median,
    ratio_columns,
    speeds,
    spread_columns,
)
from lmbase.modeling.cache import RowCache
from lmbase.modeling.trunk import position_bytes
from lmbase.text.tokenizers import decode_ids, encode_text
from sllm.evaluation.loaded import LoadedModel, Writing
from sllm.own_reading import rows_of_window
from sllm.sllm import SLLM

NUM_COPIED = 5  # prompt_lookup_num_tokens while that is measured
LOOKUP = ", prompt lookup"
MOST_SECONDS = 300.0  # of timed rounds, where more than two would take longer
NOISY = 1.25  # fastest round over slowest


def time_sllm(
    model: SLLM,
    prompt: Tensor | str,
    num_new_tokens: int,
    num_copied: int | None = None,
    **settings,
) -> Generation:
    """Greedy writing after a prompt, a text or (B, S, T) sentences; the stop flag is disabled until all is written.

    Args: num_copied: prompt_lookup_num_tokens of `generate`. settings: of it, beside those.
    """
    arrivals = Arrivals(model.processor.tokenizer if isinstance(prompt, str) else None)
    given: dict = {"text": prompt} if isinstance(prompt, str) else {"input_ids": prompt}
    batch_size = 1 if isinstance(prompt, str) else len(prompt)
    output = model.generate(
        **given,
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        overflow="slide",
        prompt_lookup_num_tokens=num_copied,
        streamer=arrivals if batch_size == 1 else None,
        **settings,
    )
    seconds = arrivals.seconds
    cache = output.cache
    assert cache is not None
    assert output.statistics is not None
    positions = cache.get_seq_length()  # the start state's among them
    tokens = 0
    for lengths in output.sentence_lengths:
        read = len(lengths) - 1  # the last sentence was written, and nothing after it
        tokens += sum(lengths[max(0, read - positions + 1) : read])
    return Generation(
        seconds,
        arrivals.moments[1][0] if arrivals.moments else seconds,
        sum(output.num_new_tokens),
        cache.num_bytes if isinstance(cache, RowCache) else cache_bytes(cache),
        num_cached_tokens=tokens,
        num_cached_positions=positions,
        fixed_cache_bytes=decoder_cache_bytes(model),
        tokens_per_forward=output.statistics.tokens_per_forward if model.draft_heads or num_copied else None,
        break_even=output.statistics.break_even,
        batch_size=batch_size,
        steady_rate=arrivals.steady_rate,
    )


def decoder_cache_bytes(model: SLLM, num_tokens: int | None = None) -> int:
    """Keys and values that writing holds beside the trunk's: one sentence's and the memory's, whatever the text; by own
    layers those of their windows, as far as there are tokens (default: enough)."""
    config = model.config
    if config.own_layers:
        layers = ((config.lower_layers, config.lower_window), (config.upper_layers, config.upper_window))
        most = [rows_of_window(config, window) for _, window in layers]
        held = [most_rows if num_tokens is None else min(most_rows, num_tokens + 1) for most_rows in most]
        states = held[0] * config.trunk.hidden_size * model.dtype.itemsize
        rows = sum(n * of_layer for (n, _), of_layer in zip(layers, held, strict=True))
        return rows * position_bytes(config.trunk, model.dtype, 1) + states
    sizes = [config.autoencoder.memory_of_layer(number) for number in range(config.autoencoder.num_decoder_layers)]
    sizes += [config.autoencoder.last_memory] * (model.heads_attend * len(model.draft_heads))
    positions = sum(config.max_sentence_tokens + 1 + size for size in sizes)
    return 2 * positions * config.hidden_size * model.start_state.element_size()


def generation_runners(
    models: Sequence[LoadedModel], text: str, prompt_tokens: int, num_new_tokens: int, lookup: bool = True
) -> dict[str, Callable[[], Generation]]:
    """Timed calls by the names of models; with `LOOKUP` at the end of a name, the same with copied drafts.

    Args: as `compare_generation`.

    Raises:
        ValueError: a model with too few positions.
    """
    for loaded in models:
        # the opening token, the prompt, and every new token but the last, which is not read
        if loaded.room is not None and prompt_tokens + num_new_tokens > loaded.room:
            raise ValueError(
                f"{loaded.name} has {loaded.room} positions, too few for </s>, {prompt_tokens} prompt tokens and "
                f"{num_new_tokens} new ones: lower prompt_tokens or new_tokens, or give --speed false."
            )
    prompt = opening(models[0], text, prompt_tokens)
    runners: dict[str, Callable[[], Generation]] = {}
    for loaded in models:
        runners[loaded.name] = functools.partial(loaded.time, prompt, num_new_tokens)
        if lookup and loaded.can_copy(prompt_tokens + num_new_tokens, NUM_COPIED):
            runners[loaded.name + LOOKUP] = functools.partial(loaded.time, prompt, num_new_tokens, NUM_COPIED)
    return runners


def opening(loaded: LoadedModel, text: str, num_tokens: int) -> str:
    """The first tokens of a text, without space behind them."""
    return decode_ids(loaded.tokenizer, encode_text(loaded.tokenizer, text)[:num_tokens]).rstrip()


def time_texts(loaded: LoadedModel, prompts: Sequence[str], num_new_tokens: int, compiled: bool = False) -> Generation:
    """Texts continued together, greedily; end marks are disabled."""
    how = Writing(num_new_tokens, settings={"min_new_tokens": num_new_tokens, "do_sample": False})
    how.settings |= {"cache_implementation": "static"} if compiled else {}
    how.overflow = "slide" if loaded.by_sentence else how.overflow
    started = time.perf_counter()
    written = loaded.write_texts([*prompts], how)
    seconds = time.perf_counter() - started
    return Generation(seconds, seconds, sum(text.num_tokens for text in written), batch_size=len(prompts))


def compare_generation(
    models: Sequence[LoadedModel],
    baseline: LoadedModel,
    text: str,
    prompt_tokens: int,
    num_new_tokens: int,
    num_rounds: int,
) -> dict[str, dict]:
    """Figures by model name, with the ratio to `baseline`, one of the models, where tokenizers are the same: written as
    ever, and (`lookup_*`) with drafts of up to `NUM_COPIED` tokens that are copied out of the text, a plain model's by
    Transformers' own prompt lookup (not where its positions are nearly used up).

    Args:
        text: its first `prompt_tokens` tokens are the prompt of every model, counted by the first model's tokenizer.

    Raises:
        ValueError: a model with too few positions.
    """
    runners = generation_runners(models, text, prompt_tokens, num_new_tokens)
    print(f"timing {len(models)} models: a warm-up and up to {num_rounds} rounds", flush=True)
    found = alternate(runners, num_rounds, most_seconds=MOST_SECONDS)
    tell_noise(found, num_rounds)
    reference = speeds(found[baseline.name])
    figures: dict[str, dict] = {}
    for loaded in models:
        runs, copied = found[loaded.name], found.get(loaded.name + LOOKUP)
        figures[loaded.name] = speed_columns(runs) | loaded.cache_columns()
        same_tokens = loaded.counts_like(baseline)  # others are longer, or shorter
        if same_tokens and loaded is not baseline:
            figures[loaded.name] |= ratio_columns("speed_ratio", speeds(runs), reference)
        if copied is not None:
            ratios = ratio_columns("lookup_ratio", speeds(copied), reference) if same_tokens else {}
            figures[loaded.name] |= ratios | drafting_columns(copied, "lookup_")
    return figures


def tell_noise(found: Mapping[str, Sequence[Generation]], num_rounds: int) -> None:
    """Say which figures to trust less: few rounds, and rounds far apart."""
    done = min(map(len, found.values()))
    if done < num_rounds:
        print(f"{done} rounds of {num_rounds}: more would have taken longer than {MOST_SECONDS / 60:.0f} minutes")
    for name, runs in found.items():
        if max(speeds(runs)) > NOISY * min(speeds(runs)):
            low, high = min(speeds(runs)), max(speeds(runs))
            print(f"noisy: {name} wrote {low:.3g} to {high:.3g} tokens per second; measure again on an idle machine")


def speed_columns(runs: Sequence[Generation]) -> dict[str, float | None]:
    """Figures of one model's rounds."""
    columns: dict[str, float | None] = {
        **spread_columns("tokens_per_second", speeds(runs)),
        "rounds": len(runs),
        "seconds_to_first_sentence": median([run.seconds_to_first_sentence for run in runs]),
        "kv_bytes_per_token": known_median(run.cache_bytes_per_token for run in runs),
        "fixed_cache_bytes": runs[0].fixed_cache_bytes,
        "tokens_per_position": median([run.tokens_per_position for run in runs]),
    }
    if drafted := drafting_columns(runs):
        columns |= drafted | {"break_even": known_median(run.break_even for run in runs)}  # None in a short call
    return columns
