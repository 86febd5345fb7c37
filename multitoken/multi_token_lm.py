"""The multi-token language model as users meet it: text in, text out, scores, saving and loading."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)

from lmbase.modeling.decoding import Seed
from lmbase.modeling.inference import inference_method
from lmbase.modeling.text_model import TokenizerMixin
from lmbase.modeling.token_lm import Scores, score_tokens
from multitoken import conversion, generation_multitoken
from multitoken.draft_tree import DraftTree
from multitoken.generation_multitoken import MultiTokenGenerateOutput
from multitoken.modeling_multitoken import MultiTokenModel
from multitoken.request import Request, ended, no_continuous_batching


class MultiTokenLM(TokenizerMixin, GenerationMixin, MultiTokenModel):
    """n heads on one trunk. Text methods need `tokenizer`, which `from_pretrained` loads with the weights."""

    @classmethod
    def from_lm(
        cls, lm: PreTrainedModel, num_future_tokens: int = 4, head_kind: str = "parallel", **options
    ) -> "MultiTokenLM":
        """n heads on a pretrained decoder-only model, which is copied; head 1 alone is that model.

        Its last block becomes head 1 and the further heads start as copies of it. `linear`: all blocks stay, and heads
        start as the identity. `anticausal`: heads 2 to n, which head 1 reads through, start as copies that add nothing.

        Args:
            options: further fields of MultiTokenLMConfig.
        """
        return conversion.from_lm(cls, lm, num_future_tokens, head_kind, options)

    def to_lm(self) -> PreTrainedModel:
        """Trunk and head 1 as a plain model of Transformers, copied: for everything that reads such a model."""
        return conversion.to_lm(self)

    def with_heads(self, num_future_tokens: int) -> "MultiTokenLM":
        """A copy with the first heads only, to finetune with one after pretraining with several."""
        model = conversion.with_heads(self, num_future_tokens)
        if self.has_tokenizer:
            model.tokenizer = self.tokenizer
        return model

    def write_in(self, weights: str) -> None:
        """As `SLLM.write_in`."""
        conversion.write_in(self, weights)

    generate_batch = init_continuous_batching = no_continuous_batching

    @inference_method
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | str | Sequence[str] | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Callable] | None = None,
        streamer=None,
        *,
        stopping_criteria: Sequence[Callable] | None = None,
        text: str | Sequence[str] | None = None,
        num_draft: int | str = "auto",
        tree: DraftTree | Sequence[Sequence[int]] | None = None,
        use_mtp: bool | None = None,
        seed: Seed = None,
        **kwargs,
    ) -> MultiTokenGenerateOutput:
        """Continue texts. The new ids are those of plain decoding with head 1, whatever is drafted: for greedy decoding
        and, with the same seed, for sampling.

        Args:
            input_ids: (B, L) ids, padded on the left or right; or the same as `text`. They may open with </s>, and are
                read behind it in any case. Else they hold ids of text only, no special ones: an end mark ends a text,
                and no text goes on. Without ids and text, one is written from its beginning.
            attention_mask: of the same shape; default: everything but padding.
            generation_config, kwargs: as in Transformers: max_new_tokens, do_sample, stop_strings, num_return_sequences
                (adjacent, as texts of their own), repetition_penalty ...; see `lmbase.modeling.settings`;
                with return_dict_in_generate=False only the tensor `sequences` is returned; prompt_lookup_num_tokens=k
                drafts up to k tokens by copying what followed the newest ones (max_matching_ngram_size, default 2)
                earlier in the text, instead of with heads.
            logits_processor: as in Transformers, called for one text at a time with the ids before the token (1, L).
            stopping_criteria: called in the same way with the ids up to each new token, in drafts, too.
            streamer: a Transformers streamer (one text only); it is handed the tokens of a pass together, and drafts
                if it is a `multitoken.stream.DraftStreamer`.
            text: a text or a list of texts.
            num_draft: k writes with heads 1 to k, 1 is plain decoding; `auto` drafts, or copies, as long as it pays,
                by measured acceptance and measured cost of a step.
            tree: draft several candidates of each head (paths, see `DraftTree`); `num_draft` limits its depth. Default:
                for `auto` the tree in the model's configuration, if one was measured for it, else a chain.
            use_mtp: Transformers' word for drafting: True is num_draft="auto", False is num_draft=1.
            seed: makes sampling repeatable; a list gives each text a (seed, number) of its own: what it would be as
                the text of that number in a call with that seed.

        cache_implementation="static" (Transformers' word; with a compile_config, if that is to say how, or with
        disable_compile) gives a cache of fixed size and compiles the step of trunk and head 1 with no drafts or with
        the largest one: the first call takes up to minutes, and the cache stays with the model. On a CPU one text
        written without drafts is read by a copy of the model whose weights are laid out for that, see
        `lmbase.modeling.one_row`. Rounding apart the text is the same.

        Raises:
            ValueError: more heads than the model has, a tree that names one, ids outside the vocabulary, a prompt
                without a position left, an unsupported setting, a text with a lone surrogate.
        """
        if use_mtp is not None:
            num_draft = num_draft if use_mtp else 1
        given = input_ids, attention_mask, generation_config, logits_processor, stopping_criteria, streamer
        request = Request(*given, text, num_draft, tree, seed, kwargs)
        with ended(streamer):
            tokenizer = self._tokenizer if isinstance(request.prompt(), Tensor) else self.tokenizer
            return generation_multitoken.generate(self, request, tokenizer)

    def score(self, texts: str | Sequence[str], contexts: str | Sequence[str] | None = None) -> Scores:
        """-log p of each text and of its end under head 1, in windows that overlap by half.

        Args:
            contexts: what stands before each text and is read, not scored. Both are tokenised as one text, so what
                text and context cost adds up to what both cost together.

        Raises:
            ValueError: a lone surrogate (with its offset), a context that ends inside a token, or a model without
                tokenizer.
        """
        return Scores.of(score_tokens(self, self.tokenizer, texts, contexts=contexts))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        model.freeze()  # loading makes new parameters, which all want gradients
        return loaded
