"""`sllm finetune-mtp` as a user types it: heads on a plain model, and fewer of them."""

import json

import pytest
from small_runs import TRAIN, other_tokenizer, refused, sllm

from multitoken import MultiTokenLM

MISTAKES = {
    "fewer heads in the model": (
        lambda runs: f"finetune-mtp --model {runs}/mtp --data {runs}/data --num_future_tokens 9",
        "heads 1 to 3",
    ),
    "heads of another kind": (
        lambda runs: f"finetune-mtp --model {runs}/mtp --data {runs}/data --head_kind causal",
        "made with parallel",
    ),
    "heads on heads": (
        lambda runs: f"finetune-mtp --lm {runs}/mtp --data {runs}/data",
        "no plain language model but a 'multi_token_lm'",
    ),
    "text of another tokenizer for heads": (
        lambda runs: f"finetune-mtp --lm {other_tokenizer(runs)} --data {runs}/data",
        "tokenizers",
    ),
    "a model and a trunk": (
        lambda runs: f"finetune-mtp --model {runs}/mtp --lm {runs}/opt --data {runs}/data",
        "not both",
    ),
    "transitions before heads": (
        lambda runs: (
            f"finetune-mtp --lm {runs}/opt --draft_transitions true --train_transitions_only true --data {runs}/data"
        ),
        "heads on a plain model have to be trained first",
    ),
    "a curriculum of too few steps": (
        lambda runs: (
            f"finetune-mtp --lm {runs}/opt --num_future_tokens 3 --curriculum forward --max_steps 2"
            f" --context 128 --data {runs}/data"
        ),
        "2 steps are too few for 3 heads",
    ),
    "a curriculum for transitions": (
        lambda runs: (
            f"finetune-mtp --model {runs}/mtp --draft_transitions true --train_transitions_only true "
            f"--curriculum forward --context 128 --data {runs}/data"
        ),
        "curriculum=forward: only transitions are trained",
    ),
    "more heads than blocks": (
        lambda runs: f"finetune-mtp --lm random:tiny --num_future_tokens 5 --data {runs}/data",
        "as many heads at most",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(runs, mistake, capsys):
    command, told = MISTAKES[mistake]
    assert told in refused(f"{command(runs)} --output_dir {runs}/mistake", capsys)


def test_multi_token_training_from_random_weights_and_with_fewer_heads(runs):
    options = f"--data {runs}/data --context 128 {TRAIN} --max_steps 2"
    sllm(f"finetune-mtp --lm random:tiny --num_future_tokens 2 {options} --output_dir {runs}/mtp2")
    sllm(f"finetune-mtp --model {runs}/mtp2 --num_future_tokens 1 {options} --output_dir {runs}/mtp1")
    models = [MultiTokenLM.from_pretrained(runs / name / "model") for name in ("mtp2", "mtp1")]
    assert [len(model.heads) for model in models] == [2, 1]
    assert [model.config.trunk.num_hidden_layers for model in models] == [2, 2]


def test_heads_join_a_forward_curriculum_one_after_the_other(runs):
    """Six steps, three heads: the losses of those that are still left out are 0."""
    lines = [json.loads(line) for line in (runs / "mtp" / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["losses"] for line in lines if "losses" in line}
    assert set(losses) == {1, 2, 4, 6}
    joined = {step: [found[name] > 0 for name in ("token", "head_2", "head_3")] for step, found in losses.items()}
    assert joined[1] == joined[2] == [True, False, False]
    assert joined[4] == [True, True, False]
    assert joined[6] == [True, True, True]
