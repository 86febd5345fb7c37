"""What the tests of the published faults share: sentences, and models with the methods of a faulty class."""

import copy
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from tiny import CAP, make_opt, make_processor

from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences
from sllm import SLLM
from sllm.evaluation import kinds
from sllm.evaluation.loaded import LoadedModel
from sllm_recipes import evaluate

KindT = TypeVar("KindT", bound=SLLM)
PAD, EOS = 1, 2
SENTENCES = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]
TEXT = "He left, and then she left. Nobody came; nobody went. Then, at last, it rained."


def pad(texts: list[list[list[int]]]) -> dict[str, torch.Tensor]:
    return vars(pad_sentences(texts, PAD))


def loaded(name: str, model: Any, tokenizer, training=None) -> LoadedModel:
    return kinds.kind_of(model.config.model_type)(name, model, tokenizer, training)


def as_kind(model: SLLM, kind: type[KindT]) -> KindT:
    """A copy of the model with the methods of a faulty class."""
    other: Any = copy.deepcopy(model)
    other.__class__ = kind
    return other


def published_rule(text: str) -> list[str]:
    """Cut after every mark; what follows the last one, and pieces past the 64th, are dropped."""
    return re.findall(r"""[^,.!?;:"\n，。！？；：]*[,.!?;:"\n，。！？；：]""", text)[:64]


def run_evaluate(folder: Path, model: SLLM) -> list[Row]:
    """`sllm evaluate` of a tiny OPT and an SLLM that are handed over in memory."""
    tokenizer = make_processor().tokenizer
    models = {"opt": make_opt(), "sllm": model}
    (folder / "test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in (TEXT, TEXT[::-1])))
    config = evaluate.Config(
        model=list(models),
        data=str(folder / "test.jsonl"),
        prompt_tokens=10,
        new_tokens=20,
        rounds=1,
        samples=1,
        device="cpu",
        output_dir=str(folder / "out"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load_model", lambda name: loaded(name, models[name], tokenizer, None))
        patch.setattr(evaluate, "model_hashes", lambda _: {})
        return evaluate.main(config)
