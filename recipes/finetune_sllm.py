"""Graft a sentence autoencoder onto a decoder-only trunk and finetune the whole: a language model that reads and
predicts one vector per sentence.

    sllm finetune-sllm sllm_tiny
    sllm finetune-sllm sllm_opt --lm facebook/opt-350m --layers 2 --data my_text/*.txt
    torchrun --nproc-per-node 8 -m sllm_recipes.finetune_sllm sllm_opt --lm facebook/opt-1.3b --strategy fsdp

With `num_future_tokens` the sentence decoder has drafting heads: it writes the same text, in fewer passes. They can be
trained together with the rest, or added to a finished model, which then stays as it is:

    sllm finetune-sllm --model runs/sllm_tiny --num_future_tokens 4 --draft_head_kind residual --data runs/data_tiny \\
        --draft_transitions true --train_draft_heads_only true --draft_targets greedy

`vae` is a run of pretrain-vae, `lm` the trunk; `model` instead of both goes on with an SLLM. Logged on the valid
split: nats per token, nats of the stop flag, bits per byte in training windows; `sllm evaluate` gives the exact,
audited figures beside the baselines.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from lmbase.config import given_on_command_line, option, run
from lmbase.modeling.devices import choose_device, moved
from lmbase.modeling.folders import model_folder, quiet_loading
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.text.segmentation import LEARNED
from lmbase.text.tokenizers import check_same_tokenizer
from lmbase.training.loop import TrainingResult
from lmbase.training.run_folder import begins_anew
from sentencevae import SentenceVAE
from sllm import SLLM, SLLMConfig
from sllm_data.datasets import SentenceWindowDataset
from sllm_data.open_data import open_data
from sllm_data.prepared import PreparedData
from sllm_recipes.graft import FIT_KEY, fit_to, graft_own_layers, open_for_lm, text_to_fit
from sllm_recipes.keeping import KeepingKeys, check_keeping_keys, check_teachable, set_keeping
from sllm_recipes.model_keys import given_keys, with_keys_of
from sllm_recipes.teaching import TeacherKeys, check_teacher_keys, open_teacher
from sllm_recipes.training_run import Recipe, RunConfig, train_on, window_figures

# what only a new graft can change
MEMORY = ("num_memory_states", "num_memory_tokens", "num_memory_vectors")
GRAFTED = (*MEMORY, "next_vector", "end_flag", "upper_layers", "lower_layers", "use_trunk")


@dataclass
@with_keys_of(SLLMConfig, without=("autoencoder", "trunk"), of_model=True)
class Config(KeepingKeys, TeacherKeys, RunConfig):
    output_dir: str = option(
        "runs/finetune-sllm", "the run's folder; the same command again continues it", may_differ=True
    )
    model: str | None = option(None, "an SLLM to train further; default: graft `vae` onto `lm`")
    vae: str | None = option(None, "a run of pretrain-vae")
    lm: str | None = option(None, "the trunk: hub id, folder, GGUF file, random:SIZE or random:FAMILY-SIZE", also="opt")
    joint_rate: NonNegativeFloat = option(
        1.0, "learning rate of what joins the parts, as a multiple of learning_rate; 0 leaves a part as it is"
    )
    outer_rate: NonNegativeFloat = option(1.0, "that of encoder and decoder")
    trunk_rate: NonNegativeFloat = option(1.0, "that of the trunk")
    table_rate: NonNegativeFloat = option(1.0, "that of the vocabulary table")
    layers: PositiveInt | None = option(None, "layers of encoder and decoder that `vae` has to have", may_differ=True)
    fit_tokens: NonNegativeInt | None = option(None, FIT_KEY)
    eval_windows: PositiveInt = option(64, "windows of the valid split that the log's figures are taken from")


def build(config: Config) -> SLLM:
    """The model to train, its processor with it."""
    torch.manual_seed(config.seed)
    given = given_keys(config, SLLMConfig)
    if given.get("lower_layers") and not (given.get("upper_layers") or config.model):
        raise ValueError(
            f"lower_layers={given['lower_layers']}: a graft by own layers needs a decoder, too; give --upper_layers."
        )
    if config.model:
        return _further(config, config.model, given)
    if not (config.vae and config.lm):
        raise ValueError("An SLLM is grafted from two parts: give --vae (a run of pretrain-vae) and --lm (the trunk).")
    vae = SentenceVAE.from_pretrained(config.vae)
    if config.layers not in (None, vae.config.num_encoder_layers):
        raise ValueError(
            f"layers={config.layers}: the encoder of {config.vae} has {vae.config.num_encoder_layers}; pretrain one "
            f"with --layers {config.layers}, or leave the key out."
        )
    own = own_tokenizer(config.lm)
    if own:
        check_same_tokenizer(own, vae.processor.tokenizer, f"the autoencoder {config.vae}", f"the trunk {config.lm}")
    lm = load_lm(config.lm, vocab_size=vae.config.vocab_size, seed=config.seed)
    return SLLM.graft(vae, lm, **given)


def _further(config: Config, model: str, given: dict) -> SLLM:
    """An SLLM to go on with, perhaps with new drafting heads."""
    if config.vae or config.lm:
        raise ValueError("Give either `model`, an SLLM to go on with, or `vae` and `lm` to graft, not both.")
    folder = model_folder(model, "sllm")
    with quiet_loading(model):
        model_config = SLLMConfig.from_pretrained(folder)
    fixed = GRAFTED + ("draft_head_kind",) * (model_config.num_future_tokens > 1)
    for name in fixed:
        own = getattr(model_config, name)
        if given.get(name, own) != own:
            remedy = (
                "make a new graft (--lm, and --vae or --upper_layers)"
                if name in GRAFTED
                else "its heads are there already"
            )
            raise ValueError(f"{name}={given[name]}: {model} was made with {own}; {remedy}, or leave the key out.")
    for name, value in given.items():
        setattr(model_config, name, value)
    return SLLM.from_pretrained(folder, config=model_config, new_parts=("draft_heads.", "draft_transitions."))


def main(config: Config) -> TrainingResult:
    device = choose_device(config.device)  # complains before the text is prepared
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    check_teacher_keys(config)
    check_keeping_keys(config)
    if "layers" in given_on_command_line(config) and not config.vae:
        raise ValueError(
            f"layers={config.layers}: the layers are those of `vae`, which is not given; leave the key out."
        )
    given = given_keys(config, SLLMConfig)
    if given.get("upper_layers") and not config.model:
        if not config.lm or config.vae:
            raise ValueError("A graft by own layers (--upper_layers) needs --lm, and no --vae: the model is its own.")
        data = open_for_lm(config, config.lm)
        model, fits = graft_own_layers(config.lm, data.processor, config.seed, given), True
    else:
        model, fits = build(config), bool(config.fit_tokens)
        if fits and model.own is None:
            raise ValueError(
                f"fit_tokens={config.fit_tokens}: only the joints of a graft by own layers (--upper_layers) are "
                "fitted; leave the key out."
            )
        data = _open_for(model, config)
    if model.own is None and (of_own := given_on_command_line(config) & {"lower_window", "upper_window"}):
        raise ValueError(f"{', '.join(sorted(of_own))}: of a graft by own layers (--upper_layers); leave the key out.")
    check_teachable(model, config)
    windows = SentenceWindowDataset(data.split("train"), data.processor.pad_token_id, model.config.max_sentences)
    fitted = text_to_fit(model, windows, config.fit_tokens, config.seed) if fits else None
    if fitted and begins_anew(Path(config.output_dir), config):
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=config.dtype == "bf16"):
            fit_to(moved(model, device), fitted)
        moved(model, "cpu")  # where training takes a model from, to shard it perhaps
    set_rates(model, config)
    context = 1 + int(windows.lengths.max())  # nothing is asked about other splits
    if teaching := open_teacher(config, data, context, "max_sentences"):
        model.teacher_weight, model.online_teacher = teaching.weight, teaching.online
    cuts = set_keeping(model, config, data, teaching)
    recipe = Recipe(
        items_of=lambda split: SentenceWindowDataset(split, data.processor.pad_token_id, model.config.max_sentences),
        figures=lambda trained, valid: window_figures(trained, valid, config.eval_windows, config),
        flops=model.flops,
        parents=[config.model, config.vae, config.lm],
        teaching=teaching,
        cuts=cuts,
        fit_tokens=fitted.num_tokens if fitted else 0,
        fit_flops=fitted.flops(model) if fitted else 0.0,
    )
    return train_on(model, config, data, recipe)


def set_rates(model: SLLM, config: Config) -> None:
    """Learning rates by part; a part whose rate is 0 is frozen, and costs no gradients.

    Raises:
        ValueError: nothing is left to train.
    """
    rates = config.joint_rate, config.outer_rate, config.trunk_rate, config.table_rate
    model.rates = dict(zip(("joints", "outer", "trunk", "table"), rates, strict=True))
    for name, weight in model.named_parameters():
        if model.rate_of(name) == 0:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            f"joint_rate, outer_rate, trunk_rate and table_rate are {rates}: nothing is left to train. Give one of a "
            "part that is there more than 0."
        )


def _open_for(model: SLLM, config: Config) -> PreparedData:
    """The data, cut and tokenised as the model reads them."""
    processor = model.processor
    source = model_folder(config.model or str(config.vae))
    rule = source if processor.rule == LEARNED else processor.rule  # where what was learned is found
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=source,
        rule=rule,
        max_sentence_tokens=processor.max_sentence_tokens,
        output_dir=config.output_dir,
    )
    if data.processor.fingerprint != processor.fingerprint:
        raise ValueError(
            f"{config.data} was prepared with another tokenizer, rule or sentence length than the model was made "
            f"with ({processor.rule}, {processor.max_sentence_tokens} tokens). Prepare it again with "
            f"--tokenizer {source} --rule {rule}."
        )
    return data


if __name__ == "__main__":
    run(Config, main)
