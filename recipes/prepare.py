"""Cut a corpus into sentences and tokenise it, once: text -> memory-mapped Arrow files that every training reads.

    sllm prepare                                                      # the embedded corpus, about 2 MB
    sllm prepare --data my_text/ --output_dir runs/mine               # .txt .jsonl .json .csv .parquet, compressed too
    sllm prepare --data 'src/*.py' README.md --output_dir runs/code         # other plain text, where it is named
    sllm prepare --data 'books/*.jsonl.gz' --text_field body --tokenizer facebook/opt-125m
    sllm prepare --data hub:wikitext:wikitext-103-raw-v1 --tokenizer bpe:16384 --rule sentence

Files and folders named train, valid (validation, val, dev) and test make the splits; without such names texts are
dealt out by share of text, 1 to 2% each to valid and test. Tokenizer and Punkt parameters are learned from the train
split only. Nothing is cut off: a sentence of more than max_sentence_tokens becomes several. What cannot be read is
named, counted and left out. The corpus may be larger than memory. An interrupted run goes on where it stopped when the
same command is given again; the result is the same for any number of workers.

output_dir then holds train/ valid/ test/ (Arrow), processor/ (tokenizer and rule), statistics.json and manifest.json
(checksums). Give the folder to the other recipes as `--data`.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from lmbase.config import differing_keys, option, run, save_config, single_process
from lmbase.files import MANIFEST
from sllm_data.corpora import open_corpus
from sllm_data.description import describe
from sllm_data.open_data import RULE_KEY, check_apart, make_processor, taken_over
from sllm_data.prepare import CONTENTS, prepare
from sllm_data.prepared import PROCESSOR, PreparedData

QUICK_BYTES = 200_000
NOT_COMPARED = "of its text only names and sizes were compared, not the contents (too large, or elsewhere)"


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "stdlib, hub:NAME[:CONFIG], or files, folders and patterns")
    text_field: str = option("text", "the field or column that holds the text")
    tokenizer: str = option(
        "bpe:8192", "hub id, folder of a model, a run or data, bpe:N (from the train split) or bytes"
    )
    rule: str = option("auto", RULE_KEY)
    max_sentence_tokens: PositiveInt = option(64, "tokens per sentence, at most; longer ones become several")
    output_dir: str = option("runs/prepare", "where the data go; the same command again continues it", may_differ=True)
    num_workers: PositiveInt | None = option(None, "processes that tokenise; default: one per CPU", may_differ=True)
    seed: int = option(0, "has no effect: nothing here is random", may_differ=True)
    quick: bool = option(False, f"only the first {QUICK_BYTES:,} bytes or so of each split, to try a command out")


@single_process
def main(config: Config) -> PreparedData:
    folder = Path(config.output_dir)
    check_apart(config.data, folder)
    saved_config = folder / "config.yaml"
    differing = differing_keys(config, saved_config) if saved_config.is_file() else []
    if differing and not (folder / PROCESSOR).is_dir():
        raise ValueError(
            f"output_dir={config.output_dir!r} holds the config.yaml of something else, a run perhaps, and no prepared "
            "data: choose another output_dir."
        )
    if differing:
        raise ValueError(
            f"{config.output_dir!r} was prepared with another configuration ({'; '.join(differing)}). "
            "Choose another output_dir, or delete the folder."
        )
    was_prepared = (folder / MANIFEST).is_file()
    if was_prepared:
        PreparedData.load(folder)  # says first what is damaged
    corpus = open_corpus(config.data, config.text_field, max_bytes=QUICK_BYTES if config.quick else None)
    if (folder / PROCESSOR).is_dir():  # an interrupted run had learned it already
        processor = taken_over(folder, config.tokenizer, config.rule)
    else:
        processor = make_processor(corpus, config.tokenizer, config.rule, config.max_sentence_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, saved_config)
    data = prepare(corpus, processor, folder, num_workers=config.num_workers)
    if was_prepared:
        same = "the text is the one it was made from" if CONTENTS in data.configuration else NOT_COMPARED
        print(f"{config.output_dir} is already prepared, and every checksum holds; {same}.")
    print(describe(data))
    return data


if __name__ == "__main__":
    run(Config, main)
