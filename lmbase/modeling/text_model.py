"""Models that carry what turns text into ids, saved and loaded with the weights.

A model carries its tokenizer (`TokenizerMixin`), or a SentenceProcessor, which has a tokenizer and also says how texts
are cut (`ProcessorMixin`). Both are written into the model's folder, and come back from where the weights do.
"""

import os
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils import cached_file

from lmbase.files import MANIFEST
from lmbase.modeling.folders import check_whole, model_folder, quiet_loading
from lmbase.modeling.packed import check_unpacked
from lmbase.text.processor import FILE_NAME, HUB_OPTIONS, SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size

TOKENIZER_FILE = "tokenizer.json"
UPLOADING = ("repo_id", "commit_message", "private", "token", "revision", "create_pr", "commit_description", "tags")


class TextModelMixin:
    """What the two have in common: saving and loading. It stands before PreTrainedModel among the bases of a model."""

    config: Any  # of the model
    config_class: Any
    _text_file: str  # a folder that has this file has what the model carries

    def _carried(self) -> Any:
        """The tokenizer or processor, None if there is none yet."""
        raise NotImplementedError

    def _load_carried(self, folder: str, hub_options: dict[str, Any]) -> None:
        """Load from a folder or hub id that has `_text_file`."""
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args: Any,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        if Path(save_directory).is_file():
            raise ValueError(f"{str(save_directory)!r} is a file: name a folder, which is made if it is not there.")
        vars(self.config).pop("auto_map", None)  # it names code that stood where this model came from
        if is_main_process:  # of several that save at once one writes, as in Transformers
            (Path(save_directory) / MANIFEST).unlink(missing_ok=True)  # of what is overwritten now
        hub = {name: kwargs.pop(name) for name in UPLOADING if name in kwargs}
        check_unpacked(cast(nn.Module, self))
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)  # type: ignore[misc]
        carried = self._carried() if is_main_process else None
        if carried is not None:
            carried.save_pretrained(str(save_directory))
        if push_to_hub:  # not before all is there
            cast(Any, self).push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        verify: bool = True,
        new_parts: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> Any:
        """As in Transformers, but never from a pickle, and whole or not at all; a run's folder is taken for its model.
        Tokenizer or processor come from where the weights do.

        Args:
            verify: compare the files with the folder's manifest, if it has one; False saves the time for reading them.
            new_parts: beginnings of the names of weights that the folder may lack: they start fresh.

        Raises:
            ValueError: no model of this kind there, a weight that is missing, left over, of another shape or not
                finite, a damaged file, a folder that would run code, a `device_map` of several devices or of none,
                another kind's `config`. With `output_loading_info` the caller judges which weights are there.
        """
        if pretrained_model_name_or_path is None:  # weights that are given as `state_dict`
            return super().from_pretrained(None, *args, **kwargs)  # type: ignore[misc]
        hub_options = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
        if kwargs.get("use_safetensors") is False:
            raise ValueError(
                "use_safetensors=False: pickled weights, which can run code, are not loaded; leave it out."
            )
        name, kind = str(pretrained_model_name_or_path), cls.config_class.model_type
        config = kwargs.get("config")
        if isinstance(config, PreTrainedConfig) and not isinstance(config, cls.config_class):
            raise ValueError(
                f"config is of class {type(config).__name__}, and a {cls.__name__} is built of a "
                f"{cls.config_class.__name__}: leave it out; the folder has its own."
            )
        folder = model_folder(name, kind, verify=verify, **hub_options)
        is_asked = kwargs.pop("output_loading_info", False)
        kwargs |= dict(use_safetensors=True, output_loading_info=True, trust_remote_code=False)
        kwargs.setdefault("ignore_mismatched_sizes", True)  # told below, in one sentence
        with quiet_loading(folder):
            model, found = super().from_pretrained(folder, *args, **kwargs)  # type: ignore[misc]
        check_one_device(model)
        if not is_asked:
            check_whole(model, found, name, new_parts)
        if cached_file(folder, cls._text_file, _raise_exceptions_for_missing_entries=False, **hub_options):
            model._load_carried(folder, hub_options)
        return (model, found) if is_asked else model

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in Transformers.

        Raises:
            ValueError: fewer rows than the tokenizer has ids, or weights in fewer bits, which stay as they are.
        """
        check_unpacked(cast(nn.Module, self))
        carried = self._carried()
        size = 0 if carried is None else vocabulary_size(getattr(carried, "tokenizer", carried))
        if new_num_tokens is not None and new_num_tokens < size:
            raise ValueError(
                f"resize_token_embeddings({new_num_tokens}): the model's tokenizer has {size} ids, and it could not "
                "read its own texts any more; keep as many rows."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)  # type: ignore[misc]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """As in Transformers.

        Raises:
            ValueError: a model without a head of its own: nothing would be written with the new one.
        """
        if self.get_output_embeddings() is not None:  # type: ignore[attr-defined]
            super().set_output_embeddings(new_embeddings)  # type: ignore[misc]
            return
        raise ValueError(
            f"A {type(self).__name__} has no output embeddings to be set: it writes with the table that it reads with, "
            "or with one inside its heads. Set the input embeddings, or load other weights (load_state_dict)."
        )


class TokenizerMixin(TextModelMixin):
    """A model that carries its tokenizer."""

    _text_file = TOKENIZER_FILE
    _tokenizer: PreTrainedTokenizerFast | None = None

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        if self._tokenizer is None:
            raise ValueError(
                f"This {type(self).__name__} has no tokenizer, so it cannot read text: load it with from_pretrained "
                "from a folder that has one, or set model.tokenizer."
            )
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> None:
        check_fits(tokenizer, self.config)
        self._tokenizer = tokenizer

    def _carried(self) -> PreTrainedTokenizerFast | None:
        return self._tokenizer

    def _load_carried(self, folder: str, hub_options: dict[str, Any]) -> None:
        self.tokenizer = load_tokenizer(folder, **hub_options)


class ProcessorMixin(TextModelMixin):
    """A model that carries a SentenceProcessor."""

    _text_file = FILE_NAME
    _processor: SentenceProcessor | None = None

    @property
    def has_processor(self) -> bool:
        return self._processor is not None

    @property
    def processor(self) -> SentenceProcessor:
        if self._processor is None:
            raise ValueError(
                f"This {type(self).__name__} has no processor, so it cannot read text: load it with from_pretrained "
                "from a folder that has one, or set model.processor = SentenceProcessor(tokenizer, ...)."
            )
        return self._processor

    @processor.setter
    def processor(self, processor: SentenceProcessor) -> None:
        check_fits(processor.tokenizer, self.config)
        if processor.max_sentence_tokens > self.config.max_sentence_tokens:
            raise ValueError(
                f"The processor cuts sentences of up to {processor.max_sentence_tokens} tokens and the model reads "
                f"{self.config.max_sentence_tokens}: use the same max_sentence_tokens for both."
            )
        if getattr(self.config, "told_ends", False) and not processor.tells_ends:
            raise ValueError(
                f"told_ends: the model was made for texts whose ends are told, and rule {processor.rule!r} tells of "
                "none; give a processor of rule 'learned' (sllm learn-cuts), or graft with told_ends=False."
            )
        self._processor = processor

    def _carried(self) -> SentenceProcessor | None:
        return self._processor

    def _load_carried(self, folder: str, hub_options: dict[str, Any]) -> None:
        self.processor = SentenceProcessor.from_pretrained(folder, **hub_options)


def check_one_device(model: Any) -> None:
    """Raise ValueError if a `device_map` laid parts of a model apart: they read each other's tables; or nowhere."""
    places = sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()})
    if not places and model.device.type == "meta":
        raise ValueError(
            "device_map='meta' loads no weights: for the outline of a model build it of its configuration, with "
            "torch.device('meta'): AutoModel.from_config(config)."
        )
    if len(places) > 1 or "disk" in places:
        raise ValueError(
            f"device_map lays this {type(model).__name__} onto {' and '.join(places)}, and it runs on one device only: "
            "give device_map='cuda:0' or 'cpu'; dtype='bfloat16' needs half of the memory."
        )


def take_open_ids(config: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a language model's configuration say, as its tokenizer does, what many leave open: the id of padding, which
    is masked anyhow, and which of several ends a text ends with."""
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if isinstance(config.eos_token_id, list) and tokenizer.eos_token_id in config.eos_token_id:
        config.eos_token_id = tokenizer.eos_token_id


def check_fits(tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
    """Raise ValueError if ids of the tokenizer mean something else to a model of this configuration."""
    size = vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"The tokenizer has {size} ids and the model {config.vocab_size} rows: it is another model's tokenizer."
        )
    for role in ("pad", "eos"):
        has, wants = getattr(tokenizer, f"{role}_token_id"), getattr(config, f"{role}_token_id")
        if wants is not None and has != wants:
            raise ValueError(
                f"The tokenizer's {role} id is {has} and the model's {wants}: it is another model's tokenizer."
            )
