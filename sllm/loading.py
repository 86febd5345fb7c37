"""Loading whatever a recipe's `model` names: a run, a folder or a hub id, of any kind that this toolkit has."""

from functools import partial
from pathlib import Path

from transformers.utils import cached_file

from lmbase.hub import name_and_source
from lmbase.modeling.folders import model_folder
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.pretrained import read_config
from lmbase.modeling.trunk import check_trunk
from lmbase.text import RULES
from lmbase.text.processor import FILE_NAME, SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from lmbase.training.cost import read_training
from sllm.evaluation.kept_window import as_configured, keeping
from sllm.evaluation.kinds import KINDS, kind_of
from sllm.evaluation.loaded import LoadedModel

WEIGHTS = "int8, int4: weights in so many bits, so that a token reads a half or a third of what it does in bf16 (CPU)"
KEEP_ENDS = f"which ends of sentences stay beside the window: own (the model's rule), none, {', '.join(RULES)}"


def load_model(spec: str) -> LoadedModel:
    """Load `spec`, or `name=spec` to choose the name in tables.

    Raises:
        ValueError: nothing there, an unfinished run, or a kind of model that is not known.
    """
    name, source = name_and_source(spec)
    name = name or Path(source).name or Path(source).resolve().name  # `.` is a folder, too
    folder = model_folder(source)
    config = read_config(source)
    if config.model_type not in KINDS:
        check_trunk(config, repr(source))
    kind = kind_of(config.model_type)
    tokenizer = load_tokenizer(folder)
    model = kind.load(source, folder).eval()
    if (size := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise ValueError(f"The tokenizer in {source!r} has {size} ids, its model {model.config.vocab_size}.")
    return as_configured(kind(name, model, tokenizer, read_training(source)), partial(own_processor, source))


def load_keeping(loaded: LoadedModel, spec: str, window: int | None, ends: str) -> LoadedModel:
    """`loaded`, which `spec` names, as it is with a window only, its weights shared; or itself without a window.

    Args: ends: see `KEEP_ENDS`.

    Raises:
        ValueError: no plain token-level model, no such rule or window, no rule of its own, or ends without a window.
    """
    if window is None:
        if ends != "own":
            raise ValueError(f"keep_ends={ends!r} says what stays beside a window: give keep_window, too.")
        return loaded
    if not loaded.plain:
        raise ValueError(
            f"keep_window={window} is for plain token-level models, and {loaded.name} is {loaded.shown}: leave it out."
        )
    if ends == "own":
        return keeping(loaded, KeptWindow(window, own_processor(name_and_source(spec)[1])))
    return keeping(loaded, KeptWindow(window, None if ends == "none" else SentenceProcessor(loaded.tokenizer, ends)))


def own_processor(source: str) -> SentenceProcessor:
    """What a model's folder holds that cuts sentences."""
    folder = model_folder(source)
    if not Path(folder).is_file() and cached_file(folder, FILE_NAME, _raise_exceptions_for_missing_entries=False):
        return SentenceProcessor.from_pretrained(folder)
    raise ValueError(
        f"Beside {source!r} nothing says how its sentences are cut ({FILE_NAME}, which a training run writes), so no "
        "sentence ends can be kept: name a rule, --keep_ends punctuation for instance, or give --keep_ends none."
    )
