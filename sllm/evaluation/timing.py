"""One timed call of a model that writes: an SLLM, or a model with several heads.

Plain token-level models are timed by `lmbase.benchmarking.timing.time_lm`.

B texts, S sentences, T tokens of a sentence.
"""

from torch import Tensor

from lmbase.benchmarking.timing import PUBLISHED_SENTENCE_TOKENS, Arrivals, Generation, cache_bytes
from lmbase.modeling.cache import RowCache
from multitoken import DraftTree, MultiTokenLM
from multitoken.benchmarks.measuring import position_bytes
from sllm.sllm import SLLM


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
        num_cached_tokens=max(tokens, 1),
        num_cached_positions=positions,
        fixed_cache_bytes=decoder_cache_bytes(model),
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
    cached = output.sequences.shape[1] - 1  # the last token was written, and not read
    found = output.statistics
    drafts = num_draft != 1 and num_copied is None
    return Generation(
        arrivals.seconds,
        arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS),
        num_new_tokens,
        # Not what this call held: with `auto` that depends on how long it happened to draft.
        cache_bytes=position_bytes(model, drafts) * cached,
        num_cached_tokens=cached,
        num_cached_positions=cached,
        tokens_per_forward=found.tokens_per_forward,
        break_even=found.break_even,
    )


def decoder_cache_bytes(model: SLLM) -> int:
    """Keys and values that writing holds beside the trunk's: one sentence's and the memory's, whatever the text."""
    config = model.config.autoencoder
    positions = config.max_sentence_tokens + 1 + config.memory_size
    layers = config.num_decoder_layers + model.heads_attend * len(model.draft_heads)
    return 2 * layers * positions * config.hidden_size * model.start_state.element_size()
