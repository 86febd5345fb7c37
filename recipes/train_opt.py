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
from pathlib import Path

from lmbase.config import option, run
from lmbase.flops import FORWARD_AND_BACKWARD
from lmbase.items import TokenWindowItems, count_tokens, steps_for, validation_loss
from lmbase.lineage import write_training
from lmbase.open_data import open_data
from lmbase.opt import TokenLM, load_opt, own_tokenizer
from lmbase.tokenization import check_same_tokenizer, vocabulary_size
from lmbase.training import TrainingConfig, TrainingResult, train


@dataclass
class Config(TrainingConfig):
    output_dir: str = option("runs/train-opt", "the run's folder; the same command again continues it", may_differ=True)
    opt: str = option("random:small", "hub id, folder, or random:tiny|small|opt-125m|opt-350m|opt-1.3b")
    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str | None = option(None, "hub id, folder, bpe:N or bytes; default: the model's own, else bpe:8192")
    rule: str = option("auto", "how prepare cuts sentences: punctuation, sentence, line or auto")
    max_sentence_tokens: int = option(64, "tokens per sentence, at most")
    context: int = option(512, "positions of a training window; those of a model with random weights")
    train_tokens: int | None = option(None, "train on about so many tokens (sets max_steps)")
    eval_windows: int = option(64, "windows of the valid split that the log's figures are taken from")


def main(config: Config) -> TrainingResult:
    own = own_tokenizer(config.opt)
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer or own or "bpe:8192",
        rule=config.rule,
        max_sentence_tokens=config.max_sentence_tokens,
        output_dir=config.output_dir,
    )
    processor = data.processor
    if own:
        check_same_tokenizer(own, processor.tokenizer, "the data", f"the model {config.opt}")
    opt = load_opt(
        config.opt, vocab_size=vocabulary_size(processor.tokenizer), max_positions=config.context, seed=config.seed
    )
    if config.context > opt.config.max_position_embeddings:
        raise ValueError(f"context={config.context}: this OPT has {opt.config.max_position_embeddings} positions.")
    opt.config.training_context = config.context
    items = TokenWindowItems(data.split("train"), processor.pad_token_id, config.context - 1)
    if config.train_tokens:
        config.max_steps = steps_for(config.train_tokens, items, config.batch_size)

    def save(model: TokenLM, folder: Path) -> None:
        model.opt.save_pretrained(folder)
        processor.save_pretrained(folder)

    evaluate = None
    if "valid" in data.splits:
        valid = TokenWindowItems(data.split("valid"), processor.pad_token_id, config.context - 1)
        micro = config.micro_batch_size or config.batch_size
        evaluate = lambda model: validation_loss(model, valid, config.eval_windows, micro)  # noqa: E731
    model = TokenLM(opt)
    result = train(
        model,
        len(items),
        items.batch,
        config,
        config.output_dir,
        count_tokens=count_tokens,
        lengths=items.lengths,
        evaluate=evaluate,
        save_model=save,
        data_hash=data.hash,
    )
    flops = FORWARD_AND_BACKWARD * model.flops(result.tokens, config.context)
    write_training(config.output_dir, result.tokens, result.seconds, flops, [config.opt])
    return result


if __name__ == "__main__":
    run(Config, main)
