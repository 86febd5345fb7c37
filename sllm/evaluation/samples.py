"""What models write, for a reader's eye: continuations of prompts, and reconstructions."""

from collections.abc import Sequence

import torch
from transformers import OPTForCausalLM

from lmbase.text.tokenizers import encode_text
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm.loading import LoadedModel
from sllm.sllm import SLLM

RECONSTRUCTED_SENTENCES = 6


def show_samples(
    models: Sequence[LoadedModel], texts: Sequence[str], prompt_tokens: int, num_new_tokens: int
) -> dict[str, list[dict]]:
    """Greedy continuations of the openings of `texts` by language models, and what autoencoders make of sentences."""
    generations, reconstructions = [], []
    for loaded in models:
        for text in texts:
            if isinstance(loaded.model, SentenceVAE):
                reconstructions += [{"model": loaded.name, **pair} for pair in _reconstruct(loaded.model, text)]
            else:
                generations.append(_continue(loaded, text, prompt_tokens, num_new_tokens))
    return {"generations": generations, "reconstructions": reconstructions}


def _reconstruct(model: SentenceVAE, text: str) -> list[dict[str, str]]:
    sentences = [model.processor.decode(ids) for ids in model.processor.encode(text).sentences()]
    chosen = sentences[:RECONSTRUCTED_SENTENCES]
    return [{"text": a, "reconstruction": b} for a, b in zip(chosen, model.reconstruct(chosen), strict=True)]


def _continue(loaded: LoadedModel, text: str, prompt_tokens: int, num_new_tokens: int) -> dict[str, str]:
    ids = encode_text(loaded.tokenizer, text)[:prompt_tokens]
    prompt = str(loaded.tokenizer.decode(ids))
    if isinstance(loaded.model, SLLM | MultiTokenLM):
        output = loaded.model.generate(text=prompt, max_new_tokens=num_new_tokens)
        assert output.texts is not None
        written, reason = output.texts[0], output.finish_reason[0]
    else:
        assert isinstance(loaded.model, OPTForCausalLM)
        inputs = torch.tensor([[loaded.model.config.bos_token_id, *ids]], device=loaded.model.device)
        sequence = loaded.model.generate(  # type: ignore[misc]
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=num_new_tokens, do_sample=False
        )[0, inputs.shape[1] :]
        written = str(loaded.tokenizer.decode(sequence, skip_special_tokens=True))
        reason = "stop" if sequence[-1] == loaded.model.config.eos_token_id else "length"
    return {"model": loaded.name, "prompt": prompt, "text": written, "finish_reason": reason}
