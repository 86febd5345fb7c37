"""Make a sentence model of a pretrained language model alone: its lower layers become the encoder, its upper layers the
decoder, and the layers between them the trunk, which runs once a sentence.

    sllm graft --lm HuggingFaceTB/SmolLM2-135M --output_dir runs/grafted
    sllm graft --lm my_model/ --lower_layers 2 --upper_layers 14
    sllm graft --lm model.gguf --data runs/data
    sllm graft --lm model.gguf --rule sentence --max_sentence_tokens 64

With `data` its joints are fitted to text by least squares (`fit_tokens`), without gradients: minutes of a CPU for a
model of 135M. Without, the model can say nothing yet. `sllm finetune-sllm --model runs/grafted/model --data ...` trains
it. The table says what was made, and how much of it is read for each token of text.
"""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from lmbase.config import Seed, given_on_command_line, option, run, single_process
from lmbase.files import MANIFEST, alone_in, clean_up, write_folder
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.text_model import take_open_ids
from lmbase.modeling.trunk import blocks
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import check_same_tokenizer, load_tokenizer, vocabulary_size
from lmbase.training.batches import Batch
from lmbase.training.cost import read_training, write_training
from lmbase.training.run_folder import CHECKPOINTS, LOG
from sllm import SLLM
from sllm.evaluation.weights_read import read_by_sentences
from sllm.joint_fitting import fit_flags, fit_joints
from sllm_data.datasets import SentenceWindowDataset
from sllm_data.open_data import RULE_KEY, check_as_made, load_prepared, open_data, with_rule
from sllm_data.prepared import PreparedData

TOKENS_PER_SENTENCE = (8, 16)  # clauses and sentences of novels
SHAPE = (
    "lower_layers",
    "upper_layers",
    "lower_window",
    "upper_window",
    "max_sentences",
    "end_flag",
    "told_ends",
    "use_trunk",
)
FIT_TOKENS_PER_WIDTH = 90
FIT_KEY = (
    "tokens of the train split that the joints of a new graft by own layers are fitted to; 0: no fit; default: 90 "
)
FIT_KEY += "times the model's width"


@dataclass
class Config:
    lm: str = option("random:small", "the language model: hub id, folder, GGUF file or random:SIZE", also="opt")
    output_dir: str = option("runs/graft", "where the model is written, into the folder `model`")
    lower_layers: int = option(4, "layers that become the encoder")
    upper_layers: PositiveInt = option(8, "layers that become the decoder")
    lower_window: PositiveInt = option(128, "tokens that each token sees in the lower layers")
    upper_window: PositiveInt = option(256, "tokens that each token sees in the upper layers")
    max_sentences: PositiveInt | None = option(
        None, "sentences of a window in training and scoring; default: 64, or as many as there are positions for"
    )
    end_flag: bool = option(True, "a sentence's end is a flag before the vocabulary; false: a token of it")
    told_ends: bool | None = option(
        None, "false: ends are predicted where the rule tells them, too; default: as the rule is"
    )
    data: str | None = option(
        None, "prepared data that it will be trained on: their rule and sentence length are taken"
    )
    rule: str = option("auto", RULE_KEY)
    max_sentence_tokens: PositiveInt = option(64, "tokens per sentence, at most")
    fit_tokens: NonNegativeInt | None = option(None, FIT_KEY + " (needs `data`)")
    use_trunk: bool = option(True, "false: leave out the layers between, the control that tells what they are worth")
    seed: Seed = option(0, "seed of random weights, and of the choice of text that is fitted to")


class DataKeys(Protocol):
    data: str | list[str]
    text_field: str
    output_dir: str


def open_for_lm(config: DataKeys, lm: str) -> PreparedData:
    """Data for a language model's own tokenizer: prepared ones as they are, other text cut by default."""
    tokenizer = own_tokenizer(lm) or "bpe:8192"
    return open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=tokenizer,
        rule="auto",
        max_sentence_tokens=64,
        output_dir=config.output_dir,
    )


def graft_own_layers(lm: str, processor: SentenceProcessor, seed: int, options: dict) -> SLLM:
    """The model that `lm` names, grafted, with its processor."""
    torch.manual_seed(seed)
    loaded = load_lm(lm, vocab_size=vocabulary_size(processor.tokenizer), seed=seed)
    take_open_ids(loaded.config, processor.tokenizer)
    options = {"told_ends": processor.tells_ends} | options
    model = SLLM.graft_own_layers(loaded, processor.max_sentence_tokens, **options)
    model.processor = processor
    return model


@dataclass
class FitText:
    """What the joints of a fresh graft are fitted to: windows of the train split, some of them."""

    windows: SentenceWindowDataset
    chosen: np.ndarray

    @property
    def num_tokens(self) -> int:
        return int(self.windows.lengths[self.chosen].sum())

    def flops(self, model: SLLM) -> float:
        """What the fit costs: a pass of the language model, as which the graft is at one token a sentence, and two of
        the graft."""
        split = self.windows.split
        num_sentences = round(self.num_tokens * split.num_sentences / max(1, split.num_tokens))
        return model.flops(self.num_tokens, self.num_tokens) + 2 * model.flops(self.num_tokens, num_sentences)

    def batches(self) -> Iterator[Batch]:
        return (self.windows.batch(self.chosen[i : i + 1]) for i in range(len(self.chosen)))


def text_to_fit(model: SLLM, windows: SentenceWindowDataset, fit_tokens: int | None, seed: int) -> FitText:
    """The same for the same windows of the train split, keys and seed."""
    wanted = FIT_TOKENS_PER_WIDTH * model.config.trunk.hidden_size if fit_tokens is None else fit_tokens
    order = np.random.default_rng(seed).permutation(len(windows))
    num_windows = 1 + int(np.searchsorted(windows.lengths[order].cumsum(), wanted)) if wanted else 0
    return FitText(windows, order[:num_windows])


def fit_to(model: SLLM, text: FitText) -> None:
    """Let the joints of a fresh graft begin where least squares on some text puts them, if there is enough of it."""
    if not text.num_tokens:
        return
    try:
        found = fit_joints(model, text.batches())
    except ValueError as error:
        print(f"The joints are not fitted, and training takes far longer from there. {error}")
        return
    fit_flags(model, text.batches())
    print(
        f"joints fitted to {found.num_tokens:,} tokens: relative squared error of what the upper layers read, on text "
        f"held out: {found.before:.3f} before, {found.after:.3f} after"
    )
    if found.after > found.before:
        print("The fit was worse, so the joints stay as they were: give more text, or a larger --fit_tokens.")


def describe(model: SLLM) -> str:
    """What was made, as a table of a few lines."""
    own, config = model.own, model.config
    assert own is not None
    layer = sum(p.numel() for p in blocks(model.trunk)[0].parameters())
    table = model.output_table.numel()
    parts = {
        "encoder": (config.lower_layers, "every token"),
        "trunk": (len(own.middle(model.trunk)), "once a sentence"),
        "decoder": (config.upper_layers, "every token, and each end"),
    }
    lines = ["part     layers  parameters  runs"]
    lines += [f"{name:8} {n:6}  {n * layer / 1e6:8.1f} M  {how}" for name, (n, how) in parts.items()]
    joints = sum(p.numel() for part in (own, model.stop_head, model.end_head) if part for p in part.parameters())
    lines += [
        f"{'joints':8} {'':6}  {joints / 1e6:8.1f} M  between the parts",
        f"{'table':8} {'':6}  {table / 1e6:8.1f} M  every token",
    ]
    whole = config.trunk.num_hidden_layers * layer + table
    for tokens in TOKENS_PER_SENTENCE:
        read = read_by_sentences(model, tokens)
        lines.append(
            f"at {tokens} tokens a sentence {read / 1e6:.1f} of {whole / 1e6:.1f} M parameters are read per token: at "
            f"most {whole / read:.1f} times as fast, where reading weights takes the time"
        )
    return "\n".join(lines)


def _data(config: Config) -> PreparedData | None:
    if config.data is None:
        return None
    prepared = load_prepared(config.data)
    if prepared is None:
        raise ValueError(
            f"data={config.data!r} is no folder written by prepare: give one, or --rule and --max_sentence_tokens."
        )
    given = given_on_command_line(config) & {"rule", "max_sentence_tokens"}
    check_as_made(prepared, {name: getattr(config, name) for name in given})
    return prepared


def _processor(config: Config, data: PreparedData | None) -> SentenceProcessor:
    """How text is cut and tokenised: by the language model's own tokenizer, and as the data are, if they are given."""
    own = own_tokenizer(config.lm)
    if data is None:
        return with_rule(load_tokenizer(own or "bytes"), config.rule, config.max_sentence_tokens)
    if own:
        check_same_tokenizer(own, data.processor.tokenizer, "the data", f"the model {config.lm}")
    return data.processor


def _place(out: Path) -> Path:
    """Where the model is written.

    Raises:
        ValueError: a model is there, or what only another command may add one to.
    """
    folder = out / "model"
    if folder.exists():
        raise ValueError(f"{folder} is there already, and nothing is overwritten: give another --output_dir.")
    if there := [name for name in (MANIFEST, CHECKPOINTS, LOG) if (out / name).exists()]:
        raise ValueError(
            f"output_dir={str(out)!r} holds {there[0]!r}: it is a folder of data, of a model or of a training, which "
            "would be taken for what is written here. Choose another output_dir."
        )
    return folder


@single_process
def main(config: Config) -> Path:
    folder = _place(Path(config.output_dir))
    read_training(config.lm)  # complains before anything is made
    data = _data(config)
    if data is None and config.fit_tokens:
        raise ValueError(f"fit_tokens={config.fit_tokens}: there is no text to fit to; give --data, prepared.")
    given = {name: getattr(config, name) for name in SHAPE if getattr(config, name) is not None}
    model = graft_own_layers(config.lm, _processor(config, data), config.seed, given)
    spent = 0, 0.0, 0.0
    if data is not None:
        started = time.perf_counter()
        windows = SentenceWindowDataset(data.split("train"), data.processor.pad_token_id, model.config.max_sentences)
        text = text_to_fit(model, windows, config.fit_tokens, config.seed)
        fit_to(model, text)
        spent = text.num_tokens, time.perf_counter() - started, text.flops(model)
    with alone_in(folder.parent):
        clean_up(folder.parent)
        write_training(folder.parent, *spent, [config.lm], seed=config.seed)
        write_folder(folder, model.save_pretrained)
    print(describe(model))
    if data is None:
        print("the joints are as the language model alone would have them; --data (prepared) fits them to text")
    print(f"wrote {folder}; next: sllm finetune-sllm --model {shlex.quote(str(folder))} --data YOUR_TEXT")
    return folder


if __name__ == "__main__":
    run(Config, main)
