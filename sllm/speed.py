"""Generation speed of loaded models, side by side, as figures for their rows."""

import functools

import torch
from transformers import OPTForCausalLM

from lmbase.opt import encode_text
from lmbase.speed import Arrivals, Generation, alternate, cache_bytes, median, pairwise_ratio, time_opt
from sllm.loading import LoadedModel
from sllm.modeling_sllm import SLLM


def time_sllm(model: SLLM, prompt: str, num_new_tokens: int) -> Generation:
    """Greedy writing after a prompt text; the stop flag is disabled until all tokens are written."""
    arrivals = Arrivals()
    output = model.generate(
        text=prompt, max_new_tokens=num_new_tokens, min_new_tokens=num_new_tokens, overflow="slide", streamer=arrivals
    )
    seconds = arrivals.moments[-1][0]
    cache = output.past_key_values
    cached_sentences = cache.get_seq_length() - 1
    cached_tokens = max(sum(output.sentence_lengths[0][:cached_sentences]), 1)
    return Generation(seconds, arrivals.moments[1][0], output.num_new_tokens[0], cache_bytes(cache), cached_tokens)


def compare_generation(
    models: list[LoadedModel], text: str, prompt_tokens: int, num_new_tokens: int, num_rounds: int
) -> dict[str, dict]:
    """Figures by model name; the first OPT is what the others' ratio is taken to.

    Args:
        text: its first `prompt_tokens` tokens are the prompt of every model.
    """
    runners = {}
    for loaded in models:
        ids = encode_text(loaded.tokenizer, text)[:prompt_tokens]
        if isinstance(loaded.model, OPTForCausalLM):
            prompt = torch.tensor([[loaded.model.config.bos_token_id, *ids]], device=loaded.model.device)
            runners[loaded.name] = functools.partial(time_opt, loaded.model, prompt, num_new_tokens)
        elif isinstance(loaded.model, SLLM):
            prompt_text = loaded.model.processor.decode(ids)
            runners[loaded.name] = functools.partial(time_sllm, loaded.model, prompt_text, num_new_tokens)
    found = alternate(runners, num_rounds)
    baseline = next((m.name for m in models if isinstance(m.model, OPTForCausalLM)), None)
    figures = {}
    for name, generations in found.items():
        figures[name] = {
            "tokens_per_second": median([g.tokens_per_second for g in generations]),
            "seconds_to_first_sentence": median([g.seconds_to_first_sentence for g in generations]),
            "kv_bytes_per_token": median([g.cache_bytes_per_token for g in generations]),
        }
        if baseline and name != baseline:
            ratio, low, high = pairwise_ratio(generations, found[baseline])
            figures[name] |= {"speed_ratio": ratio, "speed_ratio_low": low, "speed_ratio_high": high}
    return figures
