"""Loading whatever a recipe's `model` names: a run, a folder or a hub id, of any kind that this toolkit has."""

from pathlib import Path

from lmbase.modeling.folders import model_folder
from lmbase.modeling.pretrained import read_config
from lmbase.modeling.trunk import check_trunk
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from lmbase.training.cost import read_training
from sllm.evaluation.kinds import KINDS, kind_of
from sllm.evaluation.loaded import LoadedModel


def load_model(spec: str) -> LoadedModel:
    """Load `spec`, or `name=spec` to choose the name in tables.

    Raises:
        ValueError: nothing there, an unfinished run, or a kind of model that is not known.
    """
    name, equals, source = spec.partition("=")
    if not equals:
        name, source = Path(spec).name, spec
    folder = model_folder(source)
    config = read_config(source)
    if config.model_type not in KINDS:
        check_trunk(config, repr(source))
    kind = kind_of(config.model_type)
    tokenizer = load_tokenizer(folder)
    model = kind.load(source, folder).eval()
    if (size := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise ValueError(f"The tokenizer in {source!r} has {size} ids, its model {model.config.vocab_size}.")
    return kind(name, model, tokenizer, read_training(source))
