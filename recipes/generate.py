"""Text in, text out, streamed to the terminal sentence by sentence.

    sllm generate --model runs/sllm_tiny --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --prompt_file story.txt --do_sample true --temperature 0.8 --seed 1
    sllm generate --model runs/opt_tiny --prompt "Returns the"
    sllm generate --model runs/mtp_tiny --num_draft 3 --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --dtype bf16 --weights int8 --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --compile true --max_new_tokens 2000 --prompt "Returns the"
    sllm generate --model runs/opt_large --assistant runs/sllm_small --prompt "Returns the"

An unfinished last sentence of the prompt is continued, not encoded. The prompt is shown too, what is new follows it.
Afterwards stderr tells how many tokens were written, how fast (reading the prompt included), what ended the text and,
for an SLLM, the share of its sentences that cutting and tokenising their text anew would change; where tokens are
drafted, tokens per forward pass.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import OPTForCausalLM, TextStreamer

from lmbase.config import option, run, single_process
from lmbase.modeling.compiling import compile_settings
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.text.tokenizers import encode_text, tokenizer_hash
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm import SLLM
from sllm.assistant import SentenceAssistant
from sllm.loading import LoadedModel, load_model, write_in_int8

SETTINGS = ("do_sample", "temperature", "top_k", "top_p", "prompt_lookup_num_tokens")  # Transformers' own


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
    num_draft: str = option("auto", "heads to write with; 1: plain decoding; auto: as many as pay, of those there are")
    prompt_lookup_num_tokens: int | None = option(None, "draft up to so many tokens by copying them out of the text")
    assistant: str | None = option(None, "an SLLM that drafts for `model`, an OPT with the same tokenizer")
    overflow: str = option("stop", "when the trunk's positions are used up: stop or slide (SLLM)")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the weights and of the computation")
    weights: Literal["dtype", "int8"] = option("dtype", "int8: in eight bits (CPU; SLLM, OPT), half of what bf16 reads")
    compile: bool = option(False, "compile the steps, which takes up to minutes; on a CPU long texts gain a little")
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


def open_assistant(config: Config, loaded: LoadedModel) -> SentenceAssistant | None:
    if config.assistant is None:
        return None
    if not isinstance(loaded.model, OPTForCausalLM):
        raise ValueError(f"--assistant drafts for an OPT, and {config.model} is a {type(loaded.model).__name__}.")
    if config.prompt_lookup_num_tokens is not None or config.num_draft != "auto":
        raise ValueError("--assistant drafts alone: leave out --prompt_lookup_num_tokens and --num_draft.")
    assistant = load_model(config.assistant)
    if not isinstance(assistant.model, SLLM):
        raise ValueError(f"--assistant is an SLLM, and {config.assistant} is a {type(assistant.model).__name__}.")
    if tokenizer_hash(assistant.tokenizer) != tokenizer_hash(loaded.tokenizer):
        raise ValueError(f"{config.model} and {config.assistant} have different tokenizers: no guess would come true.")
    parameter = next(loaded.model.parameters())
    return SentenceAssistant(assistant.model.to(parameter.device, parameter.dtype))  # type: ignore[arg-type]


@single_process
def main(config: Config) -> str:
    prompt = read_prompt(config)
    loaded = load_model(config.model)
    device = choose_device(config.device)
    model = loaded.model.to(device, DTYPES[config.dtype])  # type: ignore[arg-type]
    if isinstance(model, SentenceVAE):
        raise ValueError(f"{config.model} is an autoencoder: it writes what it read. Generate with an SLLM or an OPT.")
    assistant = open_assistant(config, loaded)
    if config.weights == "int8":
        write_in_int8(model)
    streamer = TextStreamer(loaded.tokenizer, clean_up_tokenization_spaces=False, skip_special_tokens=True)
    sampling: dict[str, Any] = {k: getattr(config, k) for k in SETTINGS}
    sampling = {k: v for k, v in sampling.items() if v is not None}
    if config.compile:
        copies = isinstance(model, OPTForCausalLM) and config.prompt_lookup_num_tokens is not None
        if assistant is not None or copies:
            raise ValueError("--compile does not go with --assistant, nor with copied drafts of an OPT: leave one out.")
        sampling |= compile_settings(device)
        print("[compiling while it writes: seconds to minutes, less where it was done before]", file=sys.stderr)
    num_draft = int(config.num_draft) if config.num_draft.isdigit() else config.num_draft
    started = time.perf_counter()
    if isinstance(model, SLLM):
        output = model.generate(
            text=prompt,
            max_new_tokens=config.max_new_tokens,
            max_new_sentences=config.max_new_sentences,
            overflow=config.overflow,
            num_draft=num_draft,
            seed=config.seed,
            streamer=streamer,
            **sampling,
        )
        assert output.texts is not None
        assert output.statistics is not None
        drafts = model.draft_heads or config.prompt_lookup_num_tokens
        drafted = output.statistics.tokens_per_forward if drafts else None
        tell(output.num_new_tokens[0], started, output.finish_reason[0], output.recut_share, drafted)
        return output.texts[0]
    if isinstance(model, MultiTokenLM):
        written = model.generate(
            text=prompt,
            max_new_tokens=config.max_new_tokens,
            num_draft=num_draft,
            seed=config.seed,
            streamer=streamer,
            **sampling,
        )
        assert written.texts is not None
        found = written.statistics
        tell(written.num_new_tokens[0], started, written.finish_reason[0], tokens_per_forward=found.tokens_per_forward)
        return written.texts[0]
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
    if assistant is not None:
        assistant.streamer = streamer
        sampling["custom_generate"] = assistant
    sequences = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=config.max_new_tokens,
        streamer=streamer if assistant is None else None,
        **sampling,
    )
    new = sequences[0, inputs.shape[1] :]
    ended = len(new) > 0 and bool(new[-1] == model.config.eos_token_id)
    drafted = assistant.statistics.tokens_per_forward if assistant is not None else None
    tell(len(new) - ended, started, "stop" if ended else "length", tokens_per_forward=drafted)
    return str(loaded.tokenizer.decode(new, skip_special_tokens=True))


def tell(
    num_tokens: int,
    started: float,
    reason: str,
    recut_share: float | None = None,
    tokens_per_forward: float | None = None,
) -> None:
    """A line about what was written, on stderr, so that stdout holds text only. End marks are no tokens of text."""
    seconds = time.perf_counter() - started
    line = f"{num_tokens} tokens in {seconds:.2f} s ({num_tokens / seconds:,.1f} tokens/s), finished by {reason}"
    if recut_share is not None:
        line += f", {recut_share:.1%} of the sentences would change if their text were cut and tokenised anew"
    if tokens_per_forward:
        line += f", {tokens_per_forward:.2f} tokens per forward pass"
    print(f"[{line}]", file=sys.stderr)


if __name__ == "__main__":
    run(Config, main)
