"""Speed and memory, side by side: SLLM against a token-level model through Transformers' generate, training of both.

    sllm benchmark --size small opt-125m
    sllm benchmark --size opt-125m opt-350m opt-1.3b --subset generate --drafts_from runs/sllm_drafting
    sllm benchmark --size opt-125m --subset generate --prompt_tokens 256 1024 4096 --batch_size 1 8 32
    sllm benchmark --size opt-125m --subset train memory --dtype fp32
    sllm benchmark --subset pipeline --data my_text/*.txt --tokenizer facebook/opt-125m
    sllm benchmark --subset evaluate --size small --data runs/novels --window_tokens 511 --window_sentences 48
    sllm benchmark --subset cache --size opt-125m opt-1.3b --data my_text/*.txt --tokenizer facebook/opt-125m
    sllm benchmark --subset heads --size small --num_future_tokens 1 2 4 8
    sllm benchmark --subset plan --size tiny small opt-125m --dtype fp32
    sllm benchmark --subset replay --size opt-125m --acceptance_from runs/drafting
    sllm benchmark --subset replay --size opt-125m --acceptance_from runs/drafting --ways auto --rounds 20
    sllm benchmark --subset assist --size opt-1.3b opt-125m --assist_pair runs/lm runs/sllm --data runs/novels

Each subset has keys of its own: `sllm benchmark --subset cache --help` shows those that apply to it.

Weights do not change speed, so every size runs with random weights; sentence lengths are replayed from the test split
of `data`, accepted draft tokens from a trained model. Models run in one process, in turn (A B A B), after a warm-up; a
cell is the median, with the lowest and highest. Tokens are tokens of text: end marks and padding do not count. The
clock runs from the prompt to the last token. What has been measured is written as it comes: after an interruption the
same command goes on where it was, if code, machine and files are the same.

`generate`: `of_limit` is the time of the weight products that a token cannot do without, each measured alone in this
run, over the time it took (`limit_ms_*` are its parts); `read_share` is how fast those weights were read, of what this
machine's memory allows. `train`: forward, backward and optimizer on the same text; `mfu` is the model's FLOPs per
second over those of a large matrix product here. `memory`: peak of a training step, in a process of its own;
`resident`: what such a process grows by per token of context.

The subset `pipeline` times the way from text to training data instead: `segment` by each rule and tokenising on one
core, `prepare` from end to end. `data` is then raw text, read anew in each round. The subset `cache` cuts the raw text
of the test split by each rule and counts the bytes of keys and values that this makes per token.

The subset `evaluate` times exact scoring as `sllm evaluate` does it, on the opening of the test split of `data`, with
its tokenizer's vocabulary and in fp32: seconds per MB (10^6 bytes) of text for the token-level model in windows of
`window_tokens`, for the SLLM in windows of `window_sentences`, and for the SLLM under both protocols in one pass, as
`sllm evaluate` takes them. `speed_ratio` is over the token-level model, `threads` those that PyTorch uses.

The subset `heads` trains multi-token models that have equally many blocks and 1, 2, 4 ... heads: time of a step beside
its FLOPs, peak memory of the loss beside that of a loss that holds all heads' logits. The subset `replay` writes by
drafting with as many accepted draft tokens as `sllm drafting` found on a trained model (`acceptance_from`), against
Transformers' generate of the same model; its last row is what `auto` loses where no draft token ever comes true.
Neither reads text.

The subset `plan` lays what `sllm plan` says of training steps beside real ones: `memory_ratio` and `time_ratio` are
predicted over measured, the peak that of a process; on a CPU seconds are those of its own threads, taken in turns.

The subset `assist` measures an SLLM that drafts for a token-level model: a trained pair (`assist_pair`) after prompts
from the test split of `data`, then the same acceptance at two sizes, the first that of the token-level model, the
second that of the SLLM's trunk.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path

from lmbase.benchmarking.environment import environment
from lmbase.config import load_config, run, single_process
from lmbase.files import alone_in, clean_up, write_text
from lmbase.modeling.devices import choose_device
from lmbase.modeling.trunk import random_config
from lmbase.report.columns import tables_by_kind
from lmbase.report.rows import Row, check_place, write_metrics
from sllm.benchmarks.keys import Benchmark
from sllm.benchmarks.subsets import SUBSETS, chosen_part, keys_of, parts_of, shorten
from sllm.evaluation.progress import Measured, identity

HELP = ("-h", "--help")
Config = keys_of(list(SUBSETS), __name__)


def config_class(argv: Sequence[str]) -> type[Benchmark]:
    """The keys that a command line may give: of all subsets, so that a key of another one is told as such; with --help,
    of those that it names."""
    named = any(word.partition("=")[0] == "--subset" for word in argv)
    if not named or not any(word in HELP for word in argv):
        return Config
    try:
        return keys_of(load_config(Benchmark, _subset_words(argv)).subset, __name__)
    except ValueError:  # no such subset
        return Config


def _subset_words(argv: Sequence[str]) -> list[str]:
    """--subset and its values."""
    start = next(i for i, word in enumerate(argv) if word.partition("=")[0] == "--subset")
    rest = [i for i, word in enumerate(argv) if i > start and word.startswith("-")]
    return list(argv[start : rest[0] if rest else None])


@single_process
def main(config: Benchmark) -> list[Row]:
    started = time.perf_counter()
    check_place(config)
    config = chosen_part(config, __name__)
    for size in getattr(config, "size", ()):  # before text is prepared for it
        try:
            random_config(f"random:{size}", vocab_size=8, max_positions=8)
        except ValueError as error:
            raise ValueError(f"size={size}: {error}") from None
    if config.quick:
        shorten(config)
    config.device = choose_device(config.device)
    rows: list[Row] = []
    corpus: dict[str, str] = {}
    from lmbase.report.speed_page import render_speed  # here: its plotting library takes a second to import

    folder = Path(config.output_dir)
    with alone_in(folder):
        clean_up(folder)
        measured = Measured(folder, {**asdict(config), "files": files_of(config), "made_on": environment()})
        measured.tell()
        for name, part in parts_of(config):  # written after each, so that what fails later loses nothing
            more, named = measured.rows(name, part)
            rows += more
            corpus = named or corpus
            write_text(folder / "table.md", tables_by_kind(rows) + "\n")
            if plots := render_speed(rows):
                write_text(folder / "plots.html", plots)
            seconds = time.perf_counter() - started
            write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
        measured.finished()
    print(tables_by_kind(rows))
    return rows


def files_of(config: Benchmark) -> list:
    """What tells the state of the files and folders that the configuration names."""
    values = [value for name, value in asdict(config).items() if name != "output_dir"]
    words = [word for value in values for word in (value if isinstance(value, list) else [value])]
    paths = [path for word in words if isinstance(word, str) for path in sorted(glob(word)) or [word]]
    return [identity(path) for path in paths if Path(path).exists()]


if __name__ == "__main__":
    run(config_class(sys.argv[1:]), main)
