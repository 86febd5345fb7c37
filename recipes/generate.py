"""Text in, text out, streamed to the terminal sentence by sentence.

    sllm generate --model runs/sllm_tiny --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --prompt_file story.txt --do_sample true --temperature 0.8 --seed 1
    sllm generate --model runs/opt_tiny --prompt "Returns the"

An unfinished last sentence of the prompt is continued, not encoded. The prompt is shown too, what is new follows it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TextStreamer

from lmbase.config import option, run
from lmbase.devices import choose_device
from lmbase.opt import encode_text
from sentencevae import SentenceVAE
from sllm import SLLM
from sllm.loading import load_model


@dataclass
class Config:
    model: str = option("runs/finetune-sllm", "a run, a folder or a hub id")
    prompt: str | None = option(None, "the text to continue; default: standard input")
    prompt_file: str | None = option(None, "a UTF-8 file with the text to continue")
    max_new_tokens: int = option(128, "tokens to write, at most")
    max_new_sentences: int | None = option(None, "sentences to write, at most (SLLM)")
    do_sample: bool = option(False, "draw from the distribution; otherwise the most probable token is taken")
    temperature: float | None = option(None, "divides the logits before a draw")
    top_k: int | None = option(None, "draw from the k most probable tokens")
    top_p: float | None = option(None, "draw from the most probable tokens that hold this much probability")
    seed: int | None = option(None, "makes draws repeatable")
    overflow: str = option("stop", "when the trunk's positions are used up: stop or slide (SLLM)")
    dtype: str = option("fp32", "fp32 or bf16")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")


def read_prompt(config: Config) -> str:
    if config.prompt is not None and config.prompt_file is not None:
        raise ValueError("Give --prompt or --prompt_file, not both.")
    if config.prompt_file is not None:
        try:
            return Path(config.prompt_file).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{config.prompt_file} is not UTF-8 (byte {error.start}); convert it first.") from error
    return config.prompt if config.prompt is not None else sys.stdin.read()


def main(config: Config) -> str:
    if config.dtype not in ("fp32", "bf16"):
        raise ValueError(f"dtype={config.dtype!r}: choose fp32 or bf16.")
    prompt = read_prompt(config)
    loaded = load_model(config.model)
    device = choose_device(config.device)
    model = loaded.model.to(device, torch.bfloat16 if config.dtype == "bf16" else torch.float32)  # type: ignore[arg-type]
    if isinstance(model, SentenceVAE):
        raise ValueError(f"{config.model} is an autoencoder: it writes what it read. Generate with an SLLM or an OPT.")
    streamer = TextStreamer(loaded.tokenizer, clean_up_tokenization_spaces=False, skip_special_tokens=True)
    sampling = {k: getattr(config, k) for k in ("do_sample", "temperature", "top_k", "top_p")}
    sampling = {k: v for k, v in sampling.items() if v is not None}
    if isinstance(model, SLLM):
        output = model.generate(
            text=prompt,
            max_new_tokens=config.max_new_tokens,
            max_new_sentences=config.max_new_sentences,
            overflow=config.overflow,
            seed=config.seed,
            streamer=streamer,
            **sampling,
        )
        assert output.texts is not None
        print(f"[{output.num_new_tokens[0]} tokens, finished by {output.finish_reason[0]}]", file=sys.stderr)
        return output.texts[0]
    ids = encode_text(loaded.tokenizer, prompt)
    inputs = torch.tensor([[model.config.bos_token_id, *ids]], device=device)
    positions = model.config.max_position_embeddings
    room = positions - inputs.shape[1] + 1  # the last new token is not read
    if config.max_new_tokens > room:
        raise ValueError(
            f"This OPT has {positions} positions, and {inputs.shape[1]} are taken by </s> and the prompt: at most "
            f"{max(room, 0)} new tokens fit; lower --max_new_tokens or shorten the prompt."
        )
    if config.seed is not None:
        torch.manual_seed(config.seed)
    sequences = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=config.max_new_tokens,
        streamer=streamer,
        **sampling,
    )
    return str(loaded.tokenizer.decode(sequences[0, inputs.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    run(Config, main)
