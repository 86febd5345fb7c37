"""What models write, for a reader's eye: continuations of prompts, and reconstructions."""

from collections.abc import Sequence

from lmbase.text.streaming import written_text
from lmbase.text.tokenizers import encode_text
from sentencevae import SentenceVAE
from sllm.evaluation.loaded import LoadedModel, Writing

RECONSTRUCTED_SENTENCES = 6


def show_samples(
    models: Sequence[LoadedModel], texts: Sequence[str], prompt_tokens: int, num_new_tokens: int
) -> dict[str, list[dict]]:
    """Greedy continuations of the openings of `texts` by language models, and what autoencoders make of sentences."""
    generations, reconstructions = [], []
    for loaded in models:
        for text in texts:
            if loaded.predicts:
                generations.append(_continue(loaded, text, prompt_tokens, num_new_tokens))
            else:
                reconstructions += [{"model": loaded.name, **pair} for pair in _reconstruct(loaded.model, text)]
    return {"generations": generations, "reconstructions": reconstructions}


def _reconstruct(model: SentenceVAE, text: str) -> list[dict[str, str]]:
    sentences = [model.processor.decode(ids) for ids in model.processor.encode(text).sentences()]
    chosen = sentences[:RECONSTRUCTED_SENTENCES]
    return [{"text": a, "reconstruction": b} for a, b in zip(chosen, model.reconstruct(chosen), strict=True)]


def _continue(loaded: LoadedModel, text: str, prompt_tokens: int, num_new_tokens: int) -> dict[str, str]:
    ids = encode_text(loaded.tokenizer, text)
    prompt = written_text(loaded.tokenizer, ids[:prompt_tokens])
    truth = written_text(loaded.tokenizer, ids[: prompt_tokens + num_new_tokens])[len(prompt) :]
    written = loaded.write(prompt, Writing(num_new_tokens, settings=dict(do_sample=False)))
    found = {"model": loaded.name, "prompt": prompt, "text": written.text, "truth": truth}
    return found | {"finish_reason": written.finish_reason}
