"""Generation speed of loaded models, side by side, as figures for their rows."""

import functools
from collections.abc import Callable

from torch import Tensor
from transformers import OPTForCausalLM

from lmbase.benchmarking.timing import (
    PUBLISHED_SENTENCE_TOKENS,
    Arrivals,
    Generation,
    alternate,
    cache_bytes,
    median,
    pairwise_ratio,
    time_opt,
)
from lmbase.modeling.cache import RowCache
from lmbase.text.tokenizers import encode_text
from multitoken import DraftTree, MultiTokenLM
from sllm.loading import LoadedModel
from sllm.sllm import SLLM

NUM_COPIED = 5  # prompt_lookup_num_tokens while that is measured
LOOKUP = ", prompt lookup"


def time_sllm(
    model: SLLM,
    prompt: Tensor | str,
    num_new_tokens: int,
    num_draft: int | str = "auto",
    tree: DraftTree | None = None,
    num_copied: int | None = None,
    **settings,
) -> Generation:
    """Greedy writing after a prompt, a text or (B, S, T) sentences; the stop flag is disabled until all is written.

    Args: num_draft, tree, settings: of `generate`. num_copied: its prompt_lookup_num_tokens.
    """
    arrivals = Arrivals(model.processor.tokenizer if isinstance(prompt, str) else None)
    given: dict = {"text": prompt} if isinstance(prompt, str) else {"input_ids": prompt}
    batch_size = 1 if isinstance(prompt, str) else len(prompt)
    output = model.generate(
        **given,
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        overflow="slide",
        num_draft=num_draft,
        tree=tree,
        prompt_lookup_num_tokens=num_copied,
        streamer=arrivals if batch_size == 1 else None,
        **settings,
    )
    seconds = arrivals.seconds
    cache = output.past_key_values
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
        max(tokens, 1),
        positions,
        decoder_cache_bytes(model),
        tokens_per_forward=output.statistics.tokens_per_forward if model.draft_heads or num_copied else None,
        break_even=output.statistics.break_even,
        batch_size=batch_size,
        steady_rate=arrivals.steady_rate,
    )


def time_mtp(
    model: MultiTokenLM,
    prompt: str,
    num_new_tokens: int,
    num_draft: int | str = "auto",
    num_copied: int | None = None,
) -> Generation:
    """Greedy writing by drafting and verifying, text in, text out; end marks disabled. Args: as for `time_sllm`."""
    arrivals = Arrivals(model.tokenizer)
    output = model.generate(
        text=prompt,
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        num_draft=num_draft,
        prompt_lookup_num_tokens=num_copied,
        streamer=arrivals,
    )
    seconds = arrivals.seconds
    cached = output.sequences.shape[1] - 1  # the last token was written, and not read
    first = arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS)
    found = output.statistics
    return Generation(
        seconds,
        first,
        num_new_tokens,
        output.cache_bytes,
        cached,
        cached,
        tokens_per_forward=found.tokens_per_forward,
        break_even=found.break_even,
    )


def decoder_cache_bytes(model: SLLM) -> int:
    """Keys and values that writing holds beside the trunk's: one sentence's and the memory's, whatever the text."""
    config = model.config.autoencoder
    positions = config.max_sentence_tokens + 1 + config.memory_size
    layers = config.num_decoder_layers + model.heads_attend * len(model.draft_heads)
    return 2 * layers * positions * config.hidden_size * model.start_state.element_size()


def compare_generation(
    models: list[LoadedModel],
    baseline: LoadedModel,
    text: str,
    prompt_tokens: int,
    num_new_tokens: int,
    num_rounds: int,
) -> dict[str, dict]:
    """Figures by model name, with the ratio to `baseline`, one of the models: written as ever, and (`lookup_*`) with
    drafts of up to `NUM_COPIED` tokens that are copied out of the text, an OPT's by Transformers' own prompt lookup
    (not where its positions are nearly used up).

    Args:
        text: its first `prompt_tokens` tokens are the prompt of every model, counted by the first model's tokenizer.
    """
    tokenizer = models[0].tokenizer
    for loaded in models:
        positions = getattr(loaded.model.config, "max_position_embeddings", None)  # of an OPT; an SLLM slides
        # </s>, the prompt, and every new token but the last, which is not read
        if positions is not None and prompt_tokens + num_new_tokens > positions:
            raise ValueError(
                f"{loaded.name} has {positions} positions, too few for </s>, {prompt_tokens} prompt tokens and "
                f"{num_new_tokens} new ones: lower prompt_tokens or new_tokens, or give --speed false."
            )
    prompt = str(tokenizer.decode(encode_text(tokenizer, text)[:prompt_tokens]))
    runners: dict[str, Callable[[], Generation]] = {}
    for loaded in models:
        run: Callable[..., Generation]
        if isinstance(loaded.model, OPTForCausalLM):
            run = functools.partial(time_opt, loaded.model, prompt, num_new_tokens, loaded.tokenizer)
        elif isinstance(loaded.model, SLLM):
            run = functools.partial(time_sllm, loaded.model, prompt, num_new_tokens)
        elif isinstance(loaded.model, MultiTokenLM):
            run = functools.partial(time_mtp, loaded.model, prompt, num_new_tokens)
        else:
            continue
        runners[loaded.name] = run
        # Transformers' prompt lookup guesses beyond the last token that is wanted, and fails where no position is left.
        positions = loaded.model.config.max_position_embeddings if isinstance(loaded.model, OPTForCausalLM) else 2**62
        if prompt_tokens + num_new_tokens + NUM_COPIED <= positions:
            runners[loaded.name + LOOKUP] = functools.partial(run, num_copied=NUM_COPIED)
    found = alternate(runners, num_rounds)
    figures: dict[str, dict] = {}
    for name in [name for name in found if not name.endswith(LOOKUP)]:
        generations, copied = found[name], found.get(name + LOOKUP)
        figures[name] = {
            "tokens_per_second": median([g.tokens_per_second for g in generations]),
            "seconds_to_first_sentence": median([g.seconds_to_first_sentence for g in generations]),
            "kv_bytes_per_token": median([g.cache_bytes_per_token for g in generations]),
            "fixed_cache_bytes": generations[0].fixed_cache_bytes,
            "tokens_per_position": median([g.tokens_per_position for g in generations]),
        }
        if generations[0].tokens_per_forward is not None:
            figures[name]["tokens_per_forward"] = median([g.tokens_per_forward or 0.0 for g in generations])
            measured = [g.break_even for g in generations if g.break_even is not None]  # not in a short call
            figures[name]["break_even"] = median(measured) if measured else None
        if name != baseline.name:
            ratio, low, high = pairwise_ratio(generations, found[baseline.name])
            figures[name] |= {"speed_ratio": ratio, "speed_ratio_low": low, "speed_ratio_high": high}
        if copied is not None:
            ratio, low, high = pairwise_ratio(copied, found[baseline.name])
            figures[name] |= {"lookup_ratio": ratio, "lookup_ratio_low": low, "lookup_ratio_high": high}
            figures[name]["lookup_tokens_per_forward"] = median([g.tokens_per_forward or 0.0 for g in copied])
    return figures
