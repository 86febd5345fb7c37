"""The whole story on a laptop: text, tokenizer, small OPT, sentence autoencoder, graft, fair baseline, table, report.

    sllm demo

`sllm story` on the documentation inside your Python installation (about 2 MB of English; `--data` takes another text),
everything trained from nothing, with as many tokens on every machine: six to seven minutes on two CPU cores. Each stage
prints the command that does it alone; the same commands with other configurations train OPT-125M to 1.3B. The same
command again continues where it was interrupted.

At the end: a table on the screen and in OUTPUT_DIR/evaluate, and OUTPUT_DIR/report.html.

The two OPT rows: `opt` is the trunk as it was grafted; `opt-tuned` is the same trunk trained further on every token
that the SLLM's parts saw after it. The second is the one to beat. `mtp` is that one with three heads, trained a little
further: it writes what its head 1 would write alone, in fewer passes. `sllm-drafting` is `sllm` with such heads on its
sentence decoder.
"""

from dataclasses import dataclass

from pydantic import PositiveFloat

from lmbase.config import option, run, single_process
from sllm_recipes import story


@dataclass
class Config(story.Config):
    tokenizer: str | None = option("bpe:4096", "hub id, folder, bpe:N (trained on the train split) or bytes")
    rule: str = option("punctuation", "how sentences are cut, as prepare has it")
    minutes: PositiveFloat | None = option(None, "how long it may take, about; default: the same tokens on any machine")
    prompt: str | None = option("Return the", "what is continued while it trains", prose=True)
    output_dir: str = option("runs/demo", "where everything goes; the same command again continues it")


@single_process
def main(config: Config) -> None:
    story.tell(config, "opt")


if __name__ == "__main__":
    run(Config, main)
