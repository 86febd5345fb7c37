"""Text in, text out, streamed to the terminal sentence by sentence.

    sllm generate "Once upon a time"
    sllm generate --model runs/sllm_tiny --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --prompt_file story.txt --do_sample true --temperature 0.8 --seed 1
    sllm generate --model runs/lm_tiny --prompt "Returns the" --stop_strings "." "!" --repetition_penalty 1.2
    sllm generate --model runs/mtp_tiny --num_draft 3 --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --dtype bf16 --weights int8 --prompt "Returns the"
    sllm generate --model runs/sllm_tiny --compile true --max_new_tokens 2000 --prompt "Returns the"
    sllm generate --model runs/lm_tiny --keep_window 64 --prompt "Returns the"
    sllm generate --model runs/lm_small_tuned --assistant runs/sllm_small --prompt "Returns the"

Without --model a small SLLM writes that comes with the package, and its tokens are drawn: --do_sample false shows the
most probable ones, --model example:lm its token-level twin. All it has read are 21 books for children.

An unfinished last sentence of the prompt is continued, not encoded. The prompt is shown too, what is new follows it.
A prompt that begins with -- is written --prompt="-- so".
Afterwards stderr tells how many tokens were written, how fast (reading the prompt included), what ended the text and,
for an SLLM, the share of its sentences that cutting and tokenising their text anew would change; where tokens are
drafted, tokens per forward pass.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmbase.config import option, run, single_process
from lmbase.modeling.compiling import compile_settings
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.text.streaming import TextStream
from sllm.assistant import SentenceAssistant
from sllm.evaluation.loaded import LoadedModel, Writing, Written
from sllm.loading import KEEP_ENDS, WEIGHTS, load_keeping, load_model

POSITIONAL = "prompt"
EXAMPLE = "example:sllm"
SETTINGS = (  # Transformers' own
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("min_new_tokens", "stop_strings", "max_time", "prompt_lookup_num_tokens"),
    "vector_temperature",  # but for this one, of SLLMs
)


@dataclass
class Config:
    model: str | None = option(None, f"a run, a folder or a hub id; default: {EXAMPLE}, drawing tokens")
    prompt: str | None = option(None, "the text to continue; default: standard input", prose=True)
    prompt_file: str | None = option(None, "a UTF-8 file with the text to continue")
    keep_window: int | None = option(
        None, "keep so many newest tokens, the opening one and sentence ends only (plain token-level model)"
    )
    keep_ends: str = option("own", KEEP_ENDS)
    max_new_tokens: int = option(128, "tokens to write, at most")
    max_new_sentences: int | None = option(None, "sentences to write, at most (SLLM)")
    min_new_tokens: int | None = option(None, "tokens before which the text may not end")
    stop_strings: list[str] | None = option(
        None, "texts that end what is written, of which they are no part", prose=True
    )
    max_time: float | None = option(None, "seconds after which no further token is written")
    do_sample: bool | None = option(
        None, "draw from the distribution, or take the most probable token: what is done where a model is named"
    )
    temperature: float | None = option(None, "divides the logits before a draw")
    vector_temperature: float | None = option(
        None, "of an SLLM whose head draws sentence vectors (next_vector: energy, flow), 0 to 1; it draws in any case"
    )
    top_k: int | None = option(None, "draw from the k most probable tokens")
    top_p: float | None = option(None, "draw from the most probable tokens that hold this much probability")
    min_p: float | None = option(None, "draw from tokens at least so probable, as a share of the most probable one")
    repetition_penalty: float | None = option(None, "above 1: tokens that the text has already become less likely")
    no_repeat_ngram_size: int | None = option(None, "no run of so many tokens comes twice")
    seed: int | None = option(None, "makes draws repeatable")
    num_draft: str = option("auto", "heads to write with; 1: plain decoding; auto: as many as pay, of those there are")
    prompt_lookup_num_tokens: int | None = option(None, "draft up to so many tokens by copying them out of the text")
    assistant: str | None = option(
        None, "an SLLM that drafts for `model`, a plain token-level model with the same tokenizer"
    )
    overflow: Literal["stop", "slide"] = option("stop", "when the trunk's positions are used up: stop or slide (SLLM)")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the weights and of the computation")
    weights: Literal["dtype", "int8", "int4"] = option("dtype", WEIGHTS)
    compile: bool = option(False, "compile the steps, which takes up to minutes; on a CPU token-level models gain most")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")


def read_stdin() -> bytes:
    """Bytes, which Python's own reading would have changed: line ends, and what is not UTF-8."""
    if sys.stdin is None:  # closed
        raise ValueError("There is no standard input to read a prompt from: give --prompt or --prompt_file.")
    return sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()


def read_prompt(config: Config) -> str:
    """The text to continue. The new line that closes a file, or what `echo` says, is none of it."""
    if config.prompt is not None and config.prompt_file is not None:
        raise ValueError("Give --prompt or --prompt_file, not both.")
    if config.prompt is not None:
        return config.prompt
    source = config.prompt_file or "standard input"
    raw = read_stdin() if config.prompt_file is None else Path(config.prompt_file).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 (byte {error.start}); convert it first.") from error
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def open_assistant(config: Config, loaded: LoadedModel) -> SentenceAssistant | None:
    if config.assistant is None:
        return None
    if config.prompt_lookup_num_tokens is not None or config.num_draft != "auto":
        raise ValueError("--assistant drafts alone: leave out --prompt_lookup_num_tokens and --num_draft.")
    return load_model(config.assistant).as_assistant(loaded)


def choose_model(config: Config) -> str:
    """The model that is named, else the example, which draws its tokens: the most probable ones of so small a model go
    round in circles."""
    if config.model is not None:
        return config.model
    if config.do_sample is None:
        config.do_sample = True
        if (config.temperature, config.top_k, config.top_p) == (None, None, None):
            config.temperature, config.top_p = 0.7, 0.9
    told = f"[{EXAMPLE} writes, a small model that comes with the package; --model names another, --seed N repeats]"
    print(told, file=sys.stderr)
    return EXAMPLE


@single_process
def main(config: Config) -> str:
    device = choose_device(config.device)
    prompt = read_prompt(config)
    model = choose_model(config)
    loaded = load_model(model)
    if not loaded.predicts:
        raise ValueError(f"{model} is {loaded.shown}: it writes what it read. Generate with a language model.")
    loaded = load_keeping(loaded, model, config.keep_window, config.keep_ends)
    loaded.to(device, DTYPES[config.dtype])
    assistant = open_assistant(config, loaded)
    if config.weights != "dtype":
        loaded.pack(config.weights, config.compile)
    settings: dict[str, Any] = {k: v for k in SETTINGS if (v := getattr(config, k)) is not None}
    settings.setdefault("do_sample", False)
    if config.compile:
        settings |= compile_settings(device)
        print("[compiling while it writes: seconds to minutes, less where it was done before]", file=sys.stderr)
    how = Writing(
        max_new_tokens=config.max_new_tokens,
        max_new_sentences=config.max_new_sentences,
        overflow=config.overflow,
        num_draft=config.num_draft,
        seed=config.seed,
        assistant=assistant,
        settings=settings,
    )
    streamer = TextStream(loaded.tokenizer)
    started = time.perf_counter()
    written = loaded.write(prompt, how, streamer)
    tell(written, time.perf_counter() - started)
    return written.text


def tell(written: Written, seconds: float) -> None:
    """A line about what was written, on stderr, so that stdout holds text only."""
    speed = written.num_tokens / seconds
    line = f"{written.num_tokens} tokens in {seconds:.2f} s ({speed:,.1f} tokens/s)"
    line += f", finished by {written.finish_reason}"
    if written.recut_share is not None:
        line += f", {written.recut_share:.1%} of the sentences would change if their text were cut and tokenised anew"
    if written.tokens_per_forward:
        line += f", {written.tokens_per_forward:.2f} tokens per forward pass"
    print(f"[{line}]", file=sys.stderr)


if __name__ == "__main__":
    run(Config, main)
