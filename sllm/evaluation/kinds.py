"""Kinds of models that recipes load, one small class each.

A new kind is one class here and one line in `KINDS`; nothing else asks which kind a model is of.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from lmbase.benchmarking.timing import Generation, time_lm
from lmbase.modeling.causality import AuditReport
from lmbase.modeling.decoding import SampledByTransformers, Sampler, check_seed
from lmbase.modeling.endings import EndedByRules, Endings
from lmbase.modeling.kept_window import KeptWriter
from lmbase.modeling.packed import pack_linear_layers
from lmbase.modeling.pretrained import load_lm
from lmbase.modeling.settings import merge_generation_config, neutral_settings, settle_ids, text_limits
from lmbase.modeling.token_lm import DocumentNats, TokenLM, score_tokens
from lmbase.modeling.trunk import position_bytes, special_ids
from lmbase.report.statistics import perplexity
from lmbase.text.padding import pad_sentences
from lmbase.text.streaming import written_text
from lmbase.text.tokenizers import encode_text
from multitoken import MultiTokenLM
from multitoken.benchmarks.measuring import bytes_of_heads, time_mtp
from multitoken.copying import LONGEST_MATCH
from multitoken.request import warn_of_last_space
from multitoken.speculation import check_num_draft
from multitoken.stream import Stream
from sentencevae import SentenceVAE
from sllm.assistant import Assistant, CopyAssistant
from sllm.evaluation.audit import audit_sentences
from sllm.evaluation.costs import (
    Continuation,
    Pair,
    Sentences,
    continue_sentences,
    continue_tokens,
    costs_in_sentences,
    costs_of_tokens,
)
from sllm.evaluation.loaded import LoadedModel, Writing, Written
from sllm.evaluation.row_steps import pack_with_row_steps, write_by_rows
from sllm.evaluation.speed import decoder_cache_bytes, time_sllm
from sllm.evaluation.token_level import audit_ids, flops_of_heads, head_step_nats, lm_step_nats, nats_of_heads
from sllm.scoring import equal_context, own_windows, score_plans, score_sentences
from sllm.sllm import SLLM

AUDIT_SENTENCES = 12  # audited at every place; what follows them by samples
AUDIT_TOKENS = 48
OBJECTS = ("generation_config", "logits_processor", "stopping_criteria")  # among settings, but no values
# Settings of a plain model that Transformers' `generate` carries out; all others are carried out here.
TRANSFORMERS_DOES = ("cache_implementation", "compile_config", "disable_compile")


class TokenModel(LoadedModel):
    """What models that predict token after token have in common."""

    @property
    def window(self) -> int:
        config = self.model.config
        return getattr(config, "training_context", config.max_position_embeddings) - 1

    @property
    def scorer(self) -> Any:
        """What scores windows of tokens, see `TokenScorer`."""
        return self.model

    def step_nats(self, ids: list[int]) -> torch.Tensor:
        """Nats of ids that are read one by one with a cache."""
        raise NotImplementedError

    def audit(self, text: str) -> AuditReport:
        ids = encode_text(self.tokenizer, text)[: self.window]
        self._check_long_enough(len(ids), "tokens")
        return audit_ids(self.scorer, self.step_nats, ids, len(self.tokenizer), AUDIT_TOKENS)

    def score(self, texts: Sequence[str], baseline_window: int) -> dict[str, list[DocumentNats]]:
        return {"full window": score_tokens(self.scorer, self.tokenizer, texts, window=self.window)}

    def continuations(self, pairs: Sequence[Pair]) -> list[Continuation]:
        return continue_tokens(self.scorer, self.tokenizer, pairs, self.window)

    def costs(self, sentences: Sentences) -> list[list[float]]:
        return costs_of_tokens(self.scorer, sentences, self.window)

    def cache_bytes(self, num_tokens: int, num_sentences: int) -> int:
        return num_tokens * position_bytes(self.model.config, self.model.dtype)

    def paper_perplexity(self, texts: Sequence[str]) -> float:
        (found,) = self.score(texts, self.window).values()
        return perplexity(sum(d.nats for d in found), sum(len(d.token) for d in found))

    def _check_token_level(self, how: Writing) -> None:
        """Refuse what only an SLLM does."""
        given = {
            "max_new_sentences": how.max_new_sentences,
            "vector_temperature": how.settings.get("vector_temperature"),
        }
        given["overflow"] = None if how.overflow == "stop" else how.overflow
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} is for SLLMs, and {self.name} is {self.shown}: leave --{name} out"
                    + ("; --max_new_tokens limits what is written." if name == "max_new_sentences" else ".")
                )

    @property
    def room(self) -> int | None:
        return self.model.config.max_position_embeddings  # the last new token is not read


class PlainLM(TokenModel):
    """A token-level language model of Transformers, of any family that trunks are known of."""

    shown = "a plain token-level model"
    plain = True

    @staticmethod
    def load(source: str, folder: str) -> Any:
        return load_lm(source)

    @property
    def scorer(self) -> Any:
        return TokenLM(self.model).eval()

    def step_nats(self, ids: list[int]) -> torch.Tensor:
        return lm_step_nats(self.model, ids)

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        return self.scorer.flops_by_part(num_tokens, self.window)

    def pack(self, weights: str, compiled: bool = False) -> None:
        if compiled:
            pack_with_row_steps(self.model, self.tokenizer, weights)
        else:
            pack_linear_layers(self.model, weights)

    def _write(self, prompts: list[str], how: Writing, streamer: Any) -> list[Written]:
        self._check_token_level(how)
        check_num_draft(how.num_draft, 1)
        model, ids = self.model, special_ids(self.model.config)
        own = how.arguments
        given, processors, criteria = (own.pop(name, None) for name in OBJECTS)
        config = merge_generation_config(model.generation_config, given, own)
        settle_ids(config, ids.end, model.config.vocab_size)
        given_ids = [[ids.opening, *encode_text(self.tokenizer, prompt)] for prompt in prompts]
        warn_of_last_space(self.tokenizer, prompts)
        width = max(map(len, given_ids))
        limit, fewest = text_limits(config, width)
        room = min(limit, self._room_after(width))
        assistant = self._assistant(how, config)
        if not assistant and (found := write_by_rows(self, prompts, how, config, streamer)):
            return found
        sampler = Sampler(config, model.config.vocab_size, model.device, check_seed(how.seed, len(prompts)), processors)
        endings = Endings(config, criteria, self.tokenizer, given_ids, model.device)
        padding = [width - len(row) for row in given_ids]
        rules = EndedByRules(endings, config.eos_token_id, padding)
        stream = Stream(streamer, endings.strings[0] if endings.strings else None, self.tokenizer)
        settings = neutral_settings(model.generation_config)
        settings |= {name: getattr(config, name) for name in TRANSFORMERS_DOES if name in how.settings}
        if assistant is not None:  # Transformers hands no streamer on
            assistant.streamer = None if streamer is None else _Put(stream, rules.marks)
            settings["custom_generate"] = assistant
        inputs = torch.tensor([[ids.pad] * n + row for n, row in zip(padding, given_ids, strict=True)]).to(model.device)
        mask = torch.arange(width) >= torch.tensor(padding)[:, None]  # (B,L)
        sequences = inputs
        if room:
            sequences = model.generate(
                inputs,
                attention_mask=mask.long().to(model.device),
                max_new_tokens=room,
                min_new_tokens=min(fewest, room),
                eos_token_id=config.eos_token_id,
                pad_token_id=ids.pad,
                do_sample=False,
                return_dict_in_generate=False,
                logits_processor=[SampledByTransformers(sampler, width)],
                stopping_criteria=[rules],
                streamer=_Put(stream, rules.marks) if streamer is not None and assistant is None else None,
                **settings,
            )
        else:
            stream.put(inputs)
        stream.close()
        found = []
        for b, (before, row) in enumerate(zip(given_ids, sequences.tolist(), strict=True)):
            new = row[width : rules.lengths[b] or None]
            ended = new[-1:] != [] and new[-1] in rules.marks
            found.append(
                Written(
                    text=endings.shown(b, written_text(self.tokenizer, new[: len(new) - ended], before)),
                    num_tokens=len(new) - ended,
                    finish_reason=rules.found[b] or ("stop" if ended else "length" if len(new) >= limit else "context"),
                    drafts=None if assistant is None else assistant.statistics,
                )
            )
        return found

    def _assistant(self, how: Writing, config: GenerationConfig) -> Assistant | KeptWriter | None:
        """What writes in place of Transformers' own loop, if anything is to."""
        assistant: Assistant | None = how.assistant
        if assistant is None and config.prompt_lookup_num_tokens is not None:
            assistant = CopyAssistant(config.prompt_lookup_num_tokens, config.max_matching_ngram_size or LONGEST_MATCH)
        if "cache_implementation" in how.settings and assistant is not None:
            raise ValueError(
                "--compile does not go with --assistant, nor with copied drafts of a plain token-level model: leave "
                "one out."
            )
        return assistant

    def time(self, prompt: str, num_new_tokens: int, num_copied: int | None = None) -> Generation:
        return time_lm(self.model, prompt, num_new_tokens, self.tokenizer, num_copied)

    def can_copy(self, num_tokens: int, num_copied: int) -> bool:
        # Transformers' prompt lookup drafts beyond the last token that is wanted, and fails without a position for it.
        return num_tokens + num_copied <= self.model.config.max_position_embeddings

    def _room_after(self, num_given: int) -> int:
        """New tokens that fit: the last one is not read."""
        positions = self.model.config.max_position_embeddings
        if num_given > positions:
            raise ValueError(
                f"The prompt has {num_given} tokens with the opening one; {self.name} has {positions} positions. "
                "Shorten it."
            )
        return positions - num_given + 1


class _Put:
    """A stream as Transformers' `generate` and an assistant hand ids to it: the prompt first. Others close it. `marks`
    are ids that end a text, of which they are no part."""

    def __init__(self, stream: Stream, marks: Collection[int]):
        self.stream, self.marks, self.begun = stream, marks, False
        if stream.shows_drafts:
            self.put_draft = stream.put_draft

    def put(self, value: torch.Tensor) -> None:
        if self.begun:
            self.stream.show([i for i in value.flatten().tolist() if i not in self.marks])
        else:
            self.stream.put(value)
        self.begun = True

    def end(self) -> None:
        pass


class HeadsLM(TokenModel):
    """A multi-token model, scored by head 1."""

    shown = "a multi-token model"

    @staticmethod
    def load(source: str, folder: str) -> Any:
        return MultiTokenLM.from_pretrained(folder, dtype=torch.float32)

    @property
    def num_heads(self) -> int:
        return len(self.model.heads)

    def step_nats(self, ids: list[int]) -> torch.Tensor:
        return head_step_nats(self.model, ids)

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        return flops_of_heads(self.model, num_tokens, self.window)

    def nats_by_head(self, texts: Sequence[str]) -> list[float | None]:
        return nats_of_heads(self.model, [encode_text(self.tokenizer, text) for text in texts], self.window)

    def _write(self, prompts: list[str], how: Writing, streamer: Any) -> list[Written]:
        self._check_token_level(how)
        output = self.model.generate(
            text=prompts,
            num_draft=how.num_draft,
            seed=how.seed,
            streamer=streamer,
            **how.arguments,
        )
        texts = zip(output.texts, output.num_new_tokens, output.finish_reason, strict=True)
        return [Written(*of_text, output.statistics) for of_text in texts]

    def time(self, prompt: str, num_new_tokens: int, num_copied: int | None = None) -> Generation:
        return time_mtp(self.model, prompt, num_new_tokens, num_copied=num_copied)

    def cache_bytes(self, num_tokens: int, num_sentences: int) -> int:
        return num_tokens * bytes_of_heads(self.model, drafts=True)

    def cache_columns(self) -> dict[str, float]:
        return {"plain_kv_bytes_per_token": bytes_of_heads(self.model, drafts=False)}


class SentenceLM(LoadedModel):
    """An SLLM."""

    shown = "an SLLM"
    by_sentence = True

    @staticmethod
    def load(source: str, folder: str) -> Any:
        return SLLM.from_pretrained(folder, dtype=torch.float32)

    @property
    def most_drafts(self) -> int:
        return 1 + len(self.model.draft_heads)

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        return self.model.flops_by_part(num_tokens, num_sentences)

    def audit(self, text: str) -> AuditReport:
        sentences = self.split(text)
        self._check_long_enough(len(sentences), "sentences")
        return audit_sentences(self.model, sentences[: self.model.config.max_sentences], AUDIT_SENTENCES)

    def score(self, texts: Sequence[str], baseline_window: int) -> dict[str, list[DocumentNats]]:
        model = self.model
        encoded = model.processor.encode_batch(texts)
        plans = [own_windows(model), equal_context(baseline_window, model.config.max_sentences)]
        documents, sizes = [e.sentences() for e in encoded], [sum(e.sentence_bytes) for e in encoded]
        full, equal = score_plans(model, documents, sizes, plans)
        return {"full window": full, "equal context": equal}

    def continuations(self, pairs: Sequence[Pair]) -> list[Continuation]:
        return continue_sentences(self.model, pairs)

    @property
    def autoencoder(self) -> SentenceVAE | None:
        if self.model.own is not None:
            return None
        part = self.model.autoencoder
        part.processor = self.model.processor
        return part

    def split(self, text: str) -> list[list[int]]:
        return self.model.processor.encode(text).sentences()

    def costs(self, sentences: Sentences) -> list[list[float]]:
        return costs_in_sentences(self.model, sentences)

    def cache_bytes(self, num_tokens: int, num_sentences: int) -> int:
        config = self.model.config
        layers = config.use_trunk * (config.trunk.num_hidden_layers - config.lower_layers - config.upper_layers)
        trunk = (num_sentences + 1) * position_bytes(config.trunk, self.model.dtype, layers)
        return trunk + decoder_cache_bytes(self.model, num_tokens)

    def paper_perplexity(self, texts: Sequence[str]) -> float:
        documents = [e.sentences() for e in self.model.processor.encode_batch(texts)]
        found = score_sentences(self.model, documents, [0] * len(documents))
        rests = (vars(pad_sentences([sentences[1:]], self.model.config.pad_token_id)) for sentences in documents)
        targets = sum(int(self.model.loss_counts(**rest)["token"]) for rest in rests)
        return perplexity(sum(sum(d.token[1:]) for d in found), targets)

    def _write(self, prompts: list[str], how: Writing, streamer: Any) -> list[Written]:
        output = self.model.generate(
            text=prompts,
            max_new_sentences=how.max_new_sentences,
            overflow=how.overflow,
            num_draft=how.num_draft,
            seed=how.seed,
            streamer=streamer,
            **how.arguments,
        )
        drafts = len(self.model.draft_heads) or how.settings.get("prompt_lookup_num_tokens")
        drafted = output.statistics if drafts else None
        texts = zip(output.texts, output.num_new_tokens, output.finish_reason, strict=True)
        return [Written(*of_text, drafted, output.recut_share) for of_text in texts]

    def time(self, prompt: str, num_new_tokens: int, num_copied: int | None = None) -> Generation:
        return time_sllm(self.model, prompt, num_new_tokens, num_copied=num_copied)


class Autoencoder(LoadedModel):
    """A sentence autoencoder."""

    shown = "an autoencoder"
    predicts = False

    @property
    def autoencoder(self) -> SentenceVAE | None:
        return self.model

    @staticmethod
    def load(source: str, folder: str) -> Any:
        return SentenceVAE.from_pretrained(folder, dtype=torch.float32)


# By the `model_type` of a configuration; every other is a plain token-level model, if its family is known.
KINDS: dict[str, type[LoadedModel]] = {
    "sllm": SentenceLM,
    "multi_token_lm": HeadsLM,
    "sentence_vae": Autoencoder,
}


def kind_of(model_type: str) -> type[LoadedModel]:
    """The class for models of a type."""
    return KINDS.get(model_type, PlainLM)
