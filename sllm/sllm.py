"""The sentence-level language model as users meet it: text in, text out, scores, saving and loading."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import can_return_tuple

from lmbase.modeling.decoding import Seed
from lmbase.modeling.inference import inference_method
from lmbase.modeling.labels import check_labels, check_row_flags, check_rows, check_unread, per_item
from lmbase.modeling.text_model import ProcessorMixin
from lmbase.modeling.token_lm import Scores
from multitoken import DraftTree
from multitoken.request import Request, ended, no_continuous_batching
from sentencevae import SentenceVAE
from sllm import generation_sllm, grafting, reading
from sllm.flat_texts import cut_rows
from sllm.generation_sllm import SentenceGenerateOutput
from sllm.modeling_sllm import SLLMModel
from sllm.reading import AnyState, AnyWriting
from sllm.scoring import score_texts
from sllm.sentences import SLLMOutput, check_sentences


class SLLM(ProcessorMixin, GenerationMixin, SLLMModel):
    """Language model whose trunk reads and predicts one vector per sentence (arXiv 2408.00655).

    Text methods need `processor`, which `from_pretrained` loads with the weights.
    """

    @classmethod
    def graft(cls, vae: SentenceVAE, lm: PreTrainedModel, **options) -> "SLLM":
        """Join a pretrained autoencoder and a pretrained decoder-only model; both are copied.

        Args:
            lm: a language model of Transformers, or the trunk of one.
            options: fields of SLLMConfig beside the two nested configurations.

        Raises:
            ValueError: widths or vocabularies that do not fit, or a trunk too short for `max_sentences`.
        """
        model = grafting.graft(cls, vae, lm, options)
        if vae.has_processor:
            model.processor = vae.processor
        return model

    @classmethod
    def graft_own_layers(cls, lm: PreTrainedModel, max_sentence_tokens: int = 64, **options) -> "SLLM":
        """Make a sentence model of a decoder-only language model alone, which is copied: its lower layers become the
        encoder, its upper layers the decoder (`sllm.own_layers`). With one token a sentence it is the model itself,
        as long as a text fits into the windows.

        Args:
            lm: a language model of Transformers, with its vocabulary head.
            max_sentence_tokens: as the processor has it that will cut the text; set `processor` before texts are given.
            options: `upper_layers`, `lower_layers` and other fields of SLLMConfig.

        Raises:
            ValueError: more layers than there are, windows shorter than a sentence.
        """
        return grafting.graft_own_layers(cls, lm, max_sentence_tokens, options)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        sentence_mask: Tensor | None = None,
        continues: Tensor | None = None,
        keys: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **told: Tensor,
    ) -> SLLMOutput:
        """Predict every sentence of every text from the sentences before it.

        Args:
            input_ids, attention_mask: (B, S, T) sentences without end marks, padded on the right. Or flat, (B, L), as
                Transformers' tokenizers give them, </s> behind a text that ends; `processor` cuts it into sentences.
            sentence_mask: (B, S) True on real sentences; None says that ids are flat.
            continues: (B,) True where the text goes on after these sentences (a window); default: nowhere.
            keys: (B,) decide what training draws for each text; default: torch's random state does.
            labels: as Transformers' collators make them: a copy of flat ids, which are all learnt.
            num_items_in_batch: what the loss is divided by in place of the number of targets.
            told: what only training has: `cut_short`, see `SLLMModel.forward`, and of a teacher, see `sllm.token_loss`.

        Raises:
            ValueError: padding on the left of sentences, labels that leave out tokens or are others, too many
                sentences, ids outside the vocabulary, masks of another shape, an argument that is not read.
        """
        unread = {name: x for name, x in told.items() if name != "cut_short" and "teacher" not in name}
        check_unread(unread)
        check_rows(input_ids, attention_mask, labels, self.config.vocab_size, dims=(2, 3))
        check_row_flags("continues", continues, input_ids)
        check_labels(labels, input_ids, attention_mask, self.config)
        if sentence_mask is None:
            if continues is not None:
                raise ValueError("continues is for (B, S, T) sentences; of flat ids, </s> behind a text says its end.")
            batch = cut_rows(self.config, self.processor, input_ids, attention_mask)
        else:
            check_sentences(input_ids, attention_mask, sentence_mask)
            batch = dict(input_ids=input_ids, attention_mask=attention_mask, sentence_mask=sentence_mask)
            batch["continues"] = None if continues is None else continues.bool()
        told = {name: x for name, x in told.items() if name not in unread}
        output = super().forward(**batch, keys=keys, **told)
        if num_items_in_batch is not None:
            num_targets = self.loss_counts(**batch, **told)["stop"]
            output.loss = per_item(cast(Tensor, output.loss), num_targets, num_items_in_batch)
        return output

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
        max_new_sentences: int | None = None,
        overflow: str = "stop",
        vector_temperature: float | None = None,
        num_draft: int | str = "auto",
        tree: DraftTree | Sequence[Sequence[int]] | None = None,
        seed: Seed = None,
        **kwargs,
    ) -> SentenceGenerateOutput:
        """Continue texts.

        Args:
            input_ids: (B, L) flat ids, which may open with </s> and are cut into sentences here, or (B, S, T)
                sentences; or the same as `text`. Otherwise they hold ids of text only, no special ones. Without ids and
                text, one is written from its beginning.
            attention_mask: of the same shape; default: everything but padding.
            generation_config, kwargs: as in Transformers: max_new_tokens, do_sample, stop_strings, num_return_sequences
                (adjacent, as texts of their own), repetition_penalty ...; see `lmbase.modeling.settings`;
                with return_dict_in_generate=False only the tensor `sequences` is returned; prompt_lookup_num_tokens=k
                drafts up to k tokens of a sentence by copying what followed the newest ones (max_matching_ngram_size,
                default 2) earlier in the text, instead of with heads.
            logits_processor: as in Transformers; called for one text at a time with the ids before the token (1, L),
                the opening id and all sentences without their end marks.
            stopping_criteria: called in the same way with the ids up to each new token, in drafts, too.
            streamer: a Transformers streamer (one text only); it is handed whole sentences. A
                `multitoken.stream.DraftStreamer` gets drafts, and the tokens of each pass.
            text: a text or a list of texts.
            max_new_sentences: stop after writing this many.
            overflow: when the trunk's positions are used up: `stop`, or `slide` to drop the oldest half and read again.
            vector_temperature: 0 (always the same) to 1, of a head that draws sentence vectors, do_sample or not.
            num_draft: k writes sentences with heads 1 to k of the decoder, 1 is token by token; `auto` drafts, or
                copies, as long as it pays. The text is the same, in sampling with the same seed.
            tree: draft several candidates of each head (paths, see `DraftTree`); `num_draft` limits its depth.
            seed: makes sampling repeatable; a list gives each text its (seed, number), as in a call with that seed.

        cache_implementation="static" (Transformers' word; with a compile_config, if that is to say how, or with
        disable_compile) gives caches of fixed size and compiled steps: the first call takes up to minutes, later ones
        are faster where one text is written at a time, and the caches stay with the model. Rounding apart the text is
        the same. Drafts of heads with attention (`draft_head_kind: block`), or of other than the largest size, are made
        uncompiled; so are all drafts and several texts by own layers, whose compiled steps are for CPUs only.

        An unfinished last sentence of a prompt is not encoded: it is forced as the decoder's first tokens.

        Raises:
            ValueError: a text with a lone surrogate, ids outside the vocabulary, an unsupported setting.
        """
        given = input_ids, attention_mask, generation_config, logits_processor, stopping_criteria, streamer
        request = Request(*given, text, num_draft, tree, seed, kwargs)
        with ended(streamer):
            processor = self._processor if isinstance(request.prompt(), Tensor) else self.processor
            return generation_sllm.generate(self, request, processor, max_new_sentences, overflow, vector_temperature)

    def score(self, texts: str | Sequence[str], contexts: str | Sequence[str] | None = None) -> Scores:
        """Exact -log p of each text (its end included), given the context before it if there is one.

        A context and its text are cut and tokenised as one text, so that the nats of a whole are what its beginning
        fixes and the nats of the rest after it, wherever it is parted. A beginning fixes its tokens, and the ends of
        its sentences; that its last sentence ends with it only if that sentence is closed ("He left.") and the text
        does not go on in it ("He left." and "com").

        Returns:
            Scores: nats, bytes and tokens, one entry per text.

        Raises:
            ValueError: a lone surrogate (with its offset), as many contexts as there are not texts, a context that
                ends inside a token of the whole, or a head that draws sentence vectors, under which texts have no
                likelihood.
        """
        return score_texts(self, self.processor, texts, contexts)

    def prefill(self, input_ids: Tensor, attention_mask: Tensor, sentence_mask: Tensor) -> AnyState:
        """Read the start state and S sentences of B texts at once, remembering what the next sentence needs.

        Args: as for `forward`; texts of fewer sentences are padded on the right.
        """
        return reading.prefill(self, input_ids, attention_mask, sentence_mask)

    def step(self, input_ids: Tensor, attention_mask: Tensor, state: AnyState) -> None:
        """Read one more sentence of each text: ids and mask (B, T); a text whose mask is empty is over, and stays."""
        reading.step(self, input_ids, attention_mask, state)

    def start_sentence(self, state: AnyState) -> AnyWriting:
        """Begin to write the next sentence of each text."""
        return reading.start_sentence(self, state)

    def write_in(self, weights: str) -> None:
        """Hold the weights that writing reads in fewer bits: the linear layers, and a second table of the vocabulary,
        from which no embedding is taken. On a CPU, for inference; see `lmbase.modeling.packed`.

        Args:
            weights: `int8` or `int4`.

        Raises:
            ValueError: another device, or a width that the kernels cannot read.
        """
        reading.write_in(self, weights)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        model.freeze()  # loading makes new parameters, which all want gradients
        return loaded
