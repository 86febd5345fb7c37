"""Train an OPT on text, from random weights or from pretrained ones.

It makes trunks for small SLLMs and, run again on a trained trunk, the fair baseline: the same trunk trained further on
as many tokens as the SLLM saw.

    sllm train-opt opt_tiny
    sllm train-opt --opt facebook/opt-125m --data my_text/*.txt --output_dir runs/opt125m_tuned
    torchrun --nproc-per-node 8 recipes/train_opt.py opt_opt1.3b --data my_text/*.jsonl

Texts are cut into windows of `context` positions: the opening </s> and context - 1 tokens. Perplexity and bits per
byte on the valid split are logged; `sllm evaluate` gives the exact figures.
"""

from dataclasses import dataclass

from lmbase.config import option, run
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import load_lm, own_tokenizer
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from sllm_recipes.training_run import TokenTrainingConfig, open_for, train_on_windows


@dataclass
class Config(TokenTrainingConfig):
    output_dir: str = option("runs/train-opt", "the run's folder; the same command again continues it", may_differ=True)
    opt: str = option("random:small", "hub id, folder, or random:tiny|small|bytes|opt-125m|opt-350m|opt-1.3b")


def main(config: Config) -> TrainingResult:
    data = open_for(config, own_tokenizer(config.opt))
    vocab_size = vocabulary_size(data.processor.tokenizer)
    opt = load_lm(config.opt, vocab_size=vocab_size, max_positions=config.context, seed=config.seed)
    return train_on_windows(
        TokenLM(opt),
        config,
        data,
        save_weights=lambda model, folder: model.lm.save_pretrained(folder),
        parents=[config.opt],
    )


if __name__ == "__main__":
    run(Config, main)
