"""Train a token-level language model on text, from random weights or from pretrained ones.

It makes trunks for small SLLMs and, run again on a trained trunk, the fair baseline: the same trunk trained further on
as many tokens as the SLLM saw.

    sllm train-lm lm_tiny
    sllm train-lm --lm facebook/opt-125m --data my_text/*.txt --output_dir runs/lm_opt-125m
    sllm train-lm --lm some/model --keep_layers 8+6 --teacher some/model --data my_text/*.txt
    torchrun --nproc-per-node 8 -m sllm_recipes.train_lm lm_opt --lm facebook/opt-1.3b --data my_text/*.jsonl

With --keep_window 64 a token attends to the opening token, the newest 64 and those that end a sentence, and whatever
loads the run later keeps no more: a fraction of the cache on long texts, and no more speed.

Texts are cut into windows of `context` positions: the opening token and context - 1 tokens. Perplexity and bits per
byte on the valid split are logged; `sllm evaluate` gives the exact figures.

With `teacher`, the loss is (1 - teacher_weight) * cross-entropy + teacher_weight * KL(teacher || student) at every
token; the end of a text has cross-entropy alone. With `keep_layers` a pretrained model loses its middle layers first.
"""

from dataclasses import dataclass, replace

from lmbase.config import given_on_command_line, option, run
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.pretrained import load_lm, own_tokenizer, read_config
from lmbase.modeling.pruning import keep_layers, layers_to_keep
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import check_trunk
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from sllm_recipes.teaching import TeacherKeys, check_teacher_keys, open_teacher
from sllm_recipes.training_run import WindowConfig, open_for, train_on, window_recipe


@dataclass
class Config(TeacherKeys, WindowConfig):
    output_dir: str = option("runs/train-lm", "the run's folder; the same command again continues it", may_differ=True)
    lm: str = option("random:small", "hub id, folder, GGUF file, random:SIZE or random:FAMILY-SIZE", also="opt")
    keep_window: int | None = option(
        None, "attend to so many newest tokens, the opening one and sentence ends only; default: as lm does, or to all"
    )
    keep_ends: bool = option(True, "false: a window without the ends of sentences before it")
    keep_layers: str | None = option(
        None, "FIRST+LAST, such as 8+6: so many of the first and last layers of a pretrained model; default: all"
    )


def main(config: Config) -> TrainingResult:
    check_teacher_keys(config)
    if config.keep_layers is not None:
        if config.lm.startswith("random:"):
            raise ValueError(
                f"keep_layers={config.keep_layers}: lm={config.lm!r} has random weights, of which no layer is worth "
                "keeping; name a pretrained model, or a smaller random one."
            )
        trunk = check_trunk(read_config(config.lm), f"lm={config.lm!r}")
        layers_to_keep(config.keep_layers, trunk.num_hidden_layers)  # before text is prepared
    if config.keep_window is None and "keep_ends" in given_on_command_line(config):
        raise ValueError(
            f"keep_ends={config.keep_ends}: it belongs to a window of tokens that is kept; give --keep_window, too, or "
            "leave it out."
        )
    data = open_for(config, own_tokenizer(config.lm))
    vocab_size = vocabulary_size(data.processor.tokenizer)
    lm = load_lm(config.lm, vocab_size=vocab_size, max_positions=config.context, seed=config.seed)
    if config.keep_layers is not None:
        lm = keep_layers(lm, config.keep_layers)
    if config.keep_window is not None:
        lm.config.keep_window, lm.config.keep_ends = config.keep_window, config.keep_ends
    keep = KeptWindow.of(lm.config, lambda: data.processor, config.context)
    model = TokenLM(lm, keep)
    if teaching := open_teacher(config, data, config.context):
        model.teacher_weight, model.online_teacher = teaching.weight, teaching.online
    recipe = window_recipe(model, config, data, [config.lm], writer=lambda model: model.lm)
    return train_on(model, config, data, replace(recipe, teaching=teaching))


if __name__ == "__main__":
    run(Config, main)
