"""Train a token-level language model on text, from random weights or from pretrained ones.

It makes trunks for small SLLMs and, run again on a trained trunk, the fair baseline: the same trunk trained further on
as many tokens as the SLLM saw.

    sllm train-lm lm_tiny
    sllm train-lm --lm facebook/opt-125m --data my_text/*.txt --output_dir runs/lm_opt-125m
    torchrun --nproc-per-node 8 -m sllm_recipes.train_lm lm_opt --lm facebook/opt-1.3b --data my_text/*.jsonl

With --keep_window 64 a token attends to the opening token, the newest 64 and those that end a sentence, and whatever
loads the run later keeps no more: a fraction of the cache on long texts, and no more speed.

Texts are cut into windows of `context` positions: the opening token and context - 1 tokens. Perplexity and bits per
byte on the valid split are logged; `sllm evaluate` gives the exact figures.
"""

from dataclasses import dataclass

from lmbase.config import option, run
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.token_lm import TokenLM
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from sllm_recipes.training_run import WindowConfig, open_for, train_on_windows


@dataclass
class Config(WindowConfig):
    output_dir: str = option("runs/train-lm", "the run's folder; the same command again continues it", may_differ=True)
    lm: str = option("random:small", "hub id, folder, GGUF file, random:SIZE or random:FAMILY-SIZE", also="opt")
    keep_window: int | None = option(
        None, "attend to so many newest tokens, the opening one and sentence ends only; default: as lm does, or to all"
    )
    keep_ends: bool = option(True, "false: a window without the ends of sentences before it")


def main(config: Config) -> TrainingResult:
    data = open_for(config, own_tokenizer(config.lm))
    vocab_size = vocabulary_size(data.processor.tokenizer)
    lm = load_lm(config.lm, vocab_size=vocab_size, max_positions=config.context, seed=config.seed)
    if config.keep_window is not None:
        lm.config.keep_window, lm.config.keep_ends = config.keep_window, config.keep_ends
    keep = KeptWindow.of(lm.config, lambda: data.processor, config.context)
    return train_on_windows(
        TokenLM(lm, keep),
        config,
        data,
        parents=[config.lm],
        writer=lambda model: model.lm,
    )


if __name__ == "__main__":
    run(Config, main)
