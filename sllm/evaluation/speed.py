"""Generation speed of loaded models, side by side, as figures for their rows."""

import functools
from collections.abc import Callable, Sequence

from lmbase.benchmarking.timing import Generation, alternate, drafting_columns, median, ratio_columns, speeds
from lmbase.text.tokenizers import decode_ids, encode_text
from sllm.evaluation.loaded import LoadedModel

NUM_COPIED = 5  # prompt_lookup_num_tokens while that is measured
LOOKUP = ", prompt lookup"


def compare_generation(
    models: Sequence[LoadedModel],
    baseline: LoadedModel,
    text: str,
    prompt_tokens: int,
    num_new_tokens: int,
    num_rounds: int,
) -> dict[str, dict]:
    """Figures by model name, with the ratio to `baseline`, one of the models: written as ever, and (`lookup_*`) with
    drafts of up to `NUM_COPIED` tokens that are copied out of the text, a plain model's by Transformers' own prompt
    lookup (not where its positions are nearly used up).

    Args:
        text: its first `prompt_tokens` tokens are the prompt of every model, counted by the first model's tokenizer.

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
    tokenizer = models[0].tokenizer
    prompt = decode_ids(tokenizer, encode_text(tokenizer, text)[:prompt_tokens])
    runners: dict[str, Callable[[], Generation]] = {}
    for loaded in models:
        runners[loaded.name] = functools.partial(loaded.time, prompt, num_new_tokens)
        if loaded.can_copy(prompt_tokens + num_new_tokens, NUM_COPIED):
            runners[loaded.name + LOOKUP] = functools.partial(loaded.time, prompt, num_new_tokens, NUM_COPIED)
    found = alternate(runners, num_rounds)
    reference = speeds(found[baseline.name])
    figures: dict[str, dict] = {}
    for loaded in models:
        runs, copied = found[loaded.name], found.get(loaded.name + LOOKUP)
        figures[loaded.name] = _columns(runs) | loaded.cache_columns()
        if loaded is not baseline:
            figures[loaded.name] |= ratio_columns("speed_ratio", speeds(runs), reference)
        if copied is not None:
            figures[loaded.name] |= ratio_columns("lookup_ratio", speeds(copied), reference)
            figures[loaded.name] |= drafting_columns(copied, "lookup_")
    return figures


def _columns(runs: Sequence[Generation]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {
        "tokens_per_second": median(speeds(runs)),
        "seconds_to_first_sentence": median([run.seconds_to_first_sentence for run in runs]),
        "kv_bytes_per_token": median([run.cache_bytes_per_token for run in runs]),
        "fixed_cache_bytes": runs[0].fixed_cache_bytes,
        "tokens_per_position": median([run.tokens_per_position for run in runs]),
    }
    if drafted := drafting_columns(runs):
        measured = [run.break_even for run in runs if run.break_even is not None]  # not in a short call
        columns |= drafted | {"break_even": median(measured) if measured else None}
    return columns
