"""Loading whatever a recipe's `model` names: a run, a folder or a hub id, of any kind that this toolkit has."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, OPTForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lmbase.modeling.folders import model_folder
from lmbase.modeling.int8 import linear_layers_to_int8
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import load_lm
from lmbase.text.tokenizers import load_tokenizer
from lmbase.training.cost import Training, read_training
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm.sllm import SLLM


@dataclass
class LoadedModel:
    """A model with its name in tables, its tokenizer and, where it is known, what its training cost."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    training: Training | None

    @property
    def num_parameters(self) -> int:
        """Shared tables count once."""
        return sum(p.numel() for p in self.model.parameters())


def load_model(spec: str) -> LoadedModel:
    """Load `spec`, or `name=spec` to choose the name in tables.

    Raises:
        ValueError: nothing there, an unfinished run, or a kind of model that is not known.
    """
    name, equals, source = spec.partition("=")
    if not equals:
        name, source = Path(spec).name, spec
    folder = model_folder(source)
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
    except OSError as error:
        raise ValueError(
            f"No model at {source!r}: it is no folder here, and no hub answered for it. {error}"
        ) from error
    tokenizer = load_tokenizer(folder)
    model: PreTrainedModel
    if kind == "opt":
        model = load_lm(source)
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"The tokenizer in {source!r} has {len(tokenizer)} ids, its model {model.config.vocab_size}."
            )
    elif kind == "sllm":
        model = SLLM.from_pretrained(folder, dtype=torch.float32)
    elif kind == "multi_token_lm":
        model = MultiTokenLM.from_pretrained(folder, dtype=torch.float32)
    elif kind == "sentence_vae":
        model = SentenceVAE.from_pretrained(folder, dtype=torch.float32)
    else:
        raise ValueError(
            f"{source!r} is a model of type {kind!r}; known are opt, sllm, sentence_vae and multi_token_lm."
        )
    return LoadedModel(name, model.eval(), tokenizer, read_training(source))


def write_in_int8(model: PreTrainedModel) -> None:
    """Weights in eight bits for an SLLM or an OPT that writes on a CPU.

    Raises:
        ValueError: another kind of model, or what `Int8Linear` does not do.
    """
    if isinstance(model, SLLM):
        model.write_in_int8()
    elif isinstance(model, OPTForCausalLM):
        linear_layers_to_int8(model)
    else:
        raise ValueError(f"weights=int8 are for SLLM and OPT, not for a {type(model).__name__}: leave it out.")


def token_lm(loaded: LoadedModel) -> TokenLM | MultiTokenLM | None:
    """The model as one that scores a text token by token; None if it is of another kind."""
    if isinstance(loaded.model, MultiTokenLM):
        return loaded.model
    return TokenLM(loaded.model).eval() if isinstance(loaded.model, OPTForCausalLM) else None


def is_opt(loaded: LoadedModel) -> bool:
    return isinstance(loaded.model, OPTForCausalLM)
