"""Models that carry what turns text into ids, saved and loaded with the weights."""

from pathlib import Path

from transformers.utils import cached_file

from lmbase.text.processor import FILE_NAME, HUB_OPTIONS, SentenceProcessor
from lmbase.text.tokenizers import vocabulary_size


class ProcessorMixin:
    """Lets a PreTrainedModel carry its SentenceProcessor: saved and loaded with the weights."""

    _processor: SentenceProcessor | None = None

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
        config = self.config  # type: ignore[attr-defined]
        vocabulary = vocabulary_size(processor.tokenizer)
        if vocabulary > config.vocab_size:
            raise ValueError(
                f"The tokenizer has {vocabulary} ids and the model {config.vocab_size} rows: "
                "it is another model's tokenizer."
            )
        if (processor.pad_token_id, processor.eos_token_id) != (config.pad_token_id, config.eos_token_id):
            raise ValueError(
                f"The tokenizer's pad and end ids are {processor.pad_token_id} and {processor.eos_token_id}, the "
                f"model's {config.pad_token_id} and {config.eos_token_id}: it is another model's tokenizer."
            )
        if processor.max_sentence_tokens > config.max_sentence_tokens:
            raise ValueError(
                f"The processor cuts sentences of up to {processor.max_sentence_tokens} tokens and the model reads "
                f"{config.max_sentence_tokens}: use the same max_sentence_tokens for both."
            )
        self._processor = processor

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        if self._processor is not None:
            self._processor.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args, **kwargs):
        """As in Transformers, but never from a pickle; the processor comes from where the weights do."""
        kwargs["use_safetensors"] = True
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        folder, hub_options = str(pretrained_model_name_or_path), {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
        if cached_file(folder, FILE_NAME, _raise_exceptions_for_missing_entries=False, **hub_options):
            model.processor = SentenceProcessor.from_pretrained(folder, **hub_options)
        return loaded
