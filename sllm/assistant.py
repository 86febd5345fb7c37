"""What drafts for a token-level model of Transformers, which verifies in one pass: an SLLM that writes ahead in a
sentence, or copies out of the text.

    lm.generate(input_ids, attention_mask=mask, max_new_tokens=128, custom_generate=SentenceAssistant(sllm))

R rows of a pass (the newest token and guesses after it), L tokens, V vocabulary.
"""

from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from lmbase.modeling.cache import CACHE_KEY
from lmbase.modeling.decoding import Sampler
from lmbase.modeling.inference import inference
from lmbase.text.padding import pad_sentences, pad_tokens
from multitoken.copying import LONGEST_MATCH, PromptLookup
from multitoken.draft_loop import Drafting, Stretch
from multitoken.draft_tree import DraftTree
from multitoken.request import ended
from multitoken.speculation import SpeculationStatistics
from multitoken.stream import DraftStreamer
from sllm.reading import ReadingState
from sllm.sentence_writer import SentenceWriter
from sllm.sllm import SLLM


class Drafter(Protocol):
    """What guesses for an assistant.

    Attributes:
        vocab_size: of the ids that it guesses; None: it guesses ids of the text only.
    """

    vocab_size: int | None

    def restart(self) -> None:
        """Another text begins."""

    def guess(self, ids: list[int], num_tokens: int) -> list[int]:
        """At most so many tokens after a text."""


class Assistant:
    """Given to Transformers' `generate` of a language model as `custom_generate`. Every token is that model's own
    choice, greedy or drawn, after its own logits processors; guesses only decide how many of them a pass brings.

    Args:
        num_tokens: guesses of a pass, at most.
        streamer: handed the prompt, then the tokens of a pass together, and drafts if it is a `DraftStreamer`.
            Transformers keeps the one that `generate` is given from a `custom_generate`.

    `statistics` has what the last call's guesses brought. Transformers also keeps the tokenizer that its `stop_strings`
    need from a `custom_generate`: give `stopping_criteria=[StopStringCriteria(tokenizer, [...])]` in their place.
    """

    def __init__(self, drafter: Drafter, num_tokens: int, streamer=None):
        if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens!r}: an assistant guesses 1 token or more.")
        self.drafter, self.num_tokens, self.streamer = drafter, num_tokens, streamer
        self.statistics = SpeculationStatistics()

    def __call__(self, model: PreTrainedModel, input_ids: Tensor, **given) -> Tensor:
        """What `generate` calls, with processors, criteria, its configuration and a cache. Returns (1, L) prompt and
        new ids.

        Raises:
            ValueError: several texts, another vocabulary, a prompt of vectors, beams or outputs that this way of
                writing does not have.
        """
        with ended(self.streamer):
            self._check(model, input_ids, given["generation_config"])
            return self._write(model, input_ids, **given)

    def _write(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs,
    ) -> Tensor:
        self.drafter.restart()
        self.statistics = SpeculationStatistics()
        cache, mask = model_kwargs[CACHE_KEY], model_kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
        first = int(mask[0].argmax())  # padding on the left is not text
        finished = False
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())
        while not finished:
            before, reads_prompt = input_ids.shape[1], cache.get_seq_length() == 0
            # the verifying pass brings one more token than was guessed
            num_guesses = min(self.num_tokens, cast(int, generation_config.max_length) - before - 1)
            guesses = self.drafter.guess(input_ids[0, first:].tolist(), num_guesses)
            shows_draft = bool(guesses) and isinstance(self.streamer, DraftStreamer)
            if shows_draft:
                self.streamer.put_draft(guesses, None)
            read = torch.cat([input_ids, input_ids.new_tensor([guesses])], dim=1) if guesses else input_ids  # (1,L+R-1)
            mask = torch.nn.functional.pad(mask, (0, read.shape[1] - mask.shape[1]), value=1)
            output = model(
                input_ids=read[:, cache.get_seq_length() :],
                attention_mask=mask,
                use_cache=True,
                logits_to_keep=len(guesses) + 1,
                **{CACHE_KEY: cache},
            )
            chosen = self._verified(output.logits, read, guesses, logits_processor, bool(generation_config.do_sample))
            for token in chosen:
                input_ids = torch.cat([input_ids, input_ids.new_tensor([[token]])], dim=1)
                finished = bool(stopping_criteria(cast(torch.LongTensor, input_ids), None).all())
                if finished:
                    break
            num_tokens = input_ids.shape[1] - before
            num_accepted = min(len(chosen) - 1, num_tokens)
            if shows_draft:
                self.streamer.put_draft(guesses, num_accepted)
            if self.streamer is not None:
                self.streamer.put(input_ids[0, before:].cpu())
            if rejected := len(guesses) + 1 - len(chosen):
                cache.crop(-rejected)
            mask = mask[:, : input_ids.shape[1]]
            if not reads_prompt:  # as elsewhere, the pass over the prompt is not counted
                self.statistics.add(len(guesses), num_accepted, num_tokens)
        return input_ids

    def _check(self, model: PreTrainedModel, input_ids: Tensor, config: GenerationConfig) -> None:
        if (config.num_beams or 1) > 1 or config.return_dict_in_generate:
            raise ValueError("With an assistant there are no beams, and only the ids are returned.")
        if len(input_ids) != 1:
            raise ValueError(f"{len(input_ids)} texts: an assistant helps with one at a time, as in Transformers.")
        if not input_ids.shape[1]:
            raise ValueError("No ids are given (inputs_embeds are none): an assistant reads the ids of the prompt.")
        own, other = model.config.vocab_size, self.drafter.vocab_size
        if other not in (None, own):
            raise ValueError(f"The model has {own} ids and its assistant {other}: they need the same tokenizer.")
        if not config.use_cache or config.cache_implementation not in (None, "dynamic"):
            raise ValueError("An assistant needs a cache that forgets: leave out use_cache, cache_implementation.")

    def _verified(
        self, logits: Tensor, ids: Tensor, guesses: list[int], processors: LogitsProcessorList, do_sample: bool
    ) -> list[int]:
        """The model's choices (one to R) after the newest token and after each guess that came true.

        Args:
            logits: (1, R, V). ids: (1, L) the text with the guesses.
        """
        chosen: list[int] = []
        before = ids.shape[1] - len(guesses)
        for r, guess in enumerate([*guesses, -1]):
            scores = processors(
                cast(torch.LongTensor, ids[:, : before + r]), cast(torch.FloatTensor, logits[:, r].float())
            )
            token = torch.multinomial(scores.softmax(-1), 1) if do_sample else scores.argmax(-1)
            chosen.append(int(token))
            if chosen[-1] != guess:
                break
        return chosen


class SentenceAssistant(Assistant):
    """An SLLM that drafts up to the end of a sentence.

    Args:
        sllm: with the model's tokenizer; a small one beside a large model, or it takes longer than it saves.
    """

    def __init__(self, sllm: SLLM, num_tokens: int = 4, streamer=None):
        super().__init__(_Drafter(sllm), num_tokens, streamer)


class CopyAssistant(Assistant):
    """Drafts that are copied out of the text.

    Args:
        longest_match: newest tokens that are looked up, at most.
    """

    def __init__(self, num_tokens: int = 4, longest_match: int = LONGEST_MATCH, streamer=None):
        super().__init__(_Copier(longest_match), num_tokens, streamer)


class _Copier:
    vocab_size: int | None = None

    def __init__(self, longest_match: int):
        self.longest_match = longest_match
        self.restart()

    def restart(self) -> None:
        self.lookup = PromptLookup(self.longest_match)

    def guess(self, ids: list[int], num_tokens: int) -> list[int]:
        self.lookup.extend(ids[len(self.lookup.ids) :])
        return self.lookup.guess(max(num_tokens, 0))


class _Drafter:
    """The SLLM's side: what it has read of the text, and greedy guesses of what follows in the sentence."""

    def __init__(self, model: SLLM):
        if model.own is not None:
            raise ValueError("An SLLM grafted by own layers drafts for no other model: give a published one.")
        if model.draws_vectors:
            raise ValueError(
                f"next_vector={model.config.next_vector!r}: guesses are what a model finds likeliest, and this one "
                "draws sentences instead; give an SLLM with a projection."
            )
        if model.config.told_ends:
            raise ValueError(
                "told_ends: where this SLLM's sentences end depends on all of the text, which is not read again for "
                "each draft; give one that predicts its ends."
            )
        self.model, self.vocab_size = model, model.config.vocab_size
        self.greedy = Sampler(GenerationConfig(), model.config.vocab_size, model.device)
        # End marks and ids that no token has are in no sentence of an SLLM; the other model may write them.
        self.readable = set(model.processor.tokenizer.get_vocab().values()) - model.processor.codec.special_ids

    def restart(self) -> None:
        self.state: ReadingState | None = None
        self.num_read = 0  # tokens of the text in closed sentences, which are read

    def guess(self, ids: list[int], num_tokens: int) -> list[int]:
        """At most so many tokens after a text, none where its last sentence is as long as one may be."""
        if num_tokens < 1:
            return []
        start = int(ids[0] == self.model.config.bos_token_id)
        if not self.readable.issuperset(ids[start + self.num_read :]):
            return []
        with inference(self.model):
            forced = self._read(ids[start:])
            assert self.state is not None
            sentence = Stretch(forced, num_tokens, fewest=0 if forced else 1)
            SentenceWriter(self.model, 1, self.greedy, Drafting(DraftTree.chain(0))).write(self.state, [sentence])
        return sentence.new

    def _read(self, ids: list[int]) -> list[int]:
        """Read the sentences that have closed since the last call; returns the tokens of the open one."""
        model, pad = self.model, self.model.config.pad_token_id
        sentences, forced = model.processor.split_open_end(model.processor.split_ids(ids[self.num_read :]))
        positions = model.config.trunk.max_position_embeddings
        held = 0 if self.state is None else self.state.attention_mask.shape[1]
        if self.state is None or held + len(sentences) > positions:  # begin anew, with half of the positions left
            everything, forced = model.processor.split_open_end(model.processor.split_ids(ids))
            batch = pad_sentences([everything[-(positions // 2) :]], pad).to(model.device)
            self.state = model.prefill(**vars(batch))
            self.num_read = len(ids) - len(forced)
            return forced
        for sentence in sentences:
            row, mask = pad_tokens([sentence], pad)
            model.step(row.to(model.device), mask.to(model.device), self.state)
            self.num_read += len(sentence)
        return forced
