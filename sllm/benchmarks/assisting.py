"""What an SLLM brings the token-level model that it drafts for: of a trained pair, and replayed at two other sizes.

Texts are written one by one, end marks held back. L tokens of a prompt, its opening `</s>` among them.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from transformers import PreTrainedModel

from lmbase.benchmarking.timing import Arrivals, alternate
from lmbase.config import option
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.trunk import special_ids
from lmbase.report.rows import Row
from lmbase.text.tokenizers import tokenizer_hash
from multitoken.benchmarks.measuring import Written, accepted_counts, check_positions, expanded, spread_prompts
from sllm.assistant import SentenceAssistant
from sllm.benchmarks.keys import Measured, ModelKeys, Part, TextKeys, WritingKeys, speed_row
from sllm.benchmarks.replaying import COPIED, ReplayedAssistant
from sllm.evaluation.kept_window import KeptWindowLM
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model

NUM_PROMPTS = 16  # of a trained pair


@dataclass
class Assist(ModelKeys, TextKeys, WritingKeys):
    """An SLLM that drafts for a token-level model."""

    assist_pair: list[str] | None = option(
        None, "of the subset assist: a trained token-level model and an SLLM that drafts for it"
    )
    num_guesses: list[PositiveInt] = option([4], "of the subset assist: draft tokens of a pass, at most")
    temperature: PositiveFloat | None = option(
        None, "of the subset assist: the trained token-level model's; default: greedy"
    )

    def measure(self) -> Iterator[Part]:
        """
        Raises:
            ValueError: no pair, not two sizes, more tokens than there are positions, or too few to count passes.
        """
        helped, _ = self.pair
        texts, corpus = read_texts(self.data, "test", self.text_field, None)
        if len(self.size) != 2:
            raise ValueError(
                f"size={self.size}: the subset `assist` takes two, that of the model that is assisted and that of the "
                "SLLM's trunk, as in `--size opt-1.3b opt-125m`."
            )
        positions = helped.model.config.max_position_embeddings
        check_positions(helped.name, positions, self.prompt_tokens[0], self.new_tokens)
        if self.new_tokens < max(self.num_guesses) + 2:
            raise ValueError(
                f"new_tokens={self.new_tokens}, num_guesses={max(self.num_guesses)}: the pass over the prompt, which "
                "is not counted, may write all of them. Write more."
            )
        yield partial(self.measured, texts, corpus)

    def measured(self, texts: list[str], corpus: dict[str, str]) -> Measured:
        rows, counts = self.trained_rows(texts)
        rows += self.replayed_rows(texts, counts)
        for row in rows:
            row.data = corpus["name"]
        return rows, corpus

    @functools.cached_property
    def pair(self) -> list[LoadedModel]:
        """The trained token-level model and the trained SLLM that drafts for it.

        Raises:
            ValueError: not two, other kinds of model, or two tokenizers.
        """
        told = (
            f"assist_pair={self.assist_pair}: two are needed, a trained token-level model and after it a trained SLLM "
            "with the same tokenizer, as in `--assist_pair runs/lm runs/sllm`."
        )
        if self.assist_pair is None or len(self.assist_pair) != 2:
            raise ValueError(told)
        helped, helper = pair = list(map(load_model, self.assist_pair))
        if not helped.plain or not helper.by_sentence:
            raise ValueError(f"{told} These are {helped.shown} and {helper.shown}.")
        if isinstance(helped, KeptWindowLM):
            raise ValueError(
                f"{told} {helped.name} forgets tokens while it writes (keep_window={helped.keep.window}), one token "
                "after the other, and takes no drafts: give a model that keeps all."
            )
        if tokenizer_hash(helped.tokenizer) != tokenizer_hash(helper.tokenizer):
            raise ValueError(f"{told} The tokenizers of these differ.")
        for loaded in pair:
            loaded.to(self.device)
        return pair

    def prompts(self, texts: Sequence[str], number: int, num_tokens: int) -> list[list[int]]:
        helped, helper = self.pair
        return spread_prompts(helper.tokenizer, texts, number, num_tokens, special_ids(helped.model.config).opening)

    def trained_rows(self, texts: Sequence[str]) -> tuple[list[Row], dict[int, list[int]]]:
        """Rows of the token-level model alone and with each number of draft tokens, in fp32 after prompts spread over
        the texts; by that number, the draft tokens accepted in each pass. A pass without a draft, as behind a
        sentence's end, accepted none."""
        helped, helper = self.pair
        prompts = self.prompts(texts, NUM_PROMPTS, self.prompt_tokens[0])
        write = partial(time_writing, helped.model, prompts, self.new_tokens, temperature=self.temperature)
        rows, (alone, *found) = self.compare(write, partial(SentenceAssistant, helper.model), helped.name, helper.name)
        counts: dict[int, list[int]] = {}
        for row, written in zip(rows[1:], found, strict=True):
            equal = sum(a == b for a, b in zip(written.ids, alone.ids, strict=True))
            row.extra |= {"prompts": len(prompts), "equal_texts": equal}
            row.extra |= {f"acceptance_{i}": rate for i, rate in enumerate(written.statistics.acceptance, start=1)}
            with_draft = expanded(accepted_counts(written.statistics))
            without = written.statistics.num_forwards - len(with_draft)
            counts[row.extra["num_guesses"]] = with_draft + [0] * without
        for row in rows:
            row.dtype = "fp32"
        return rows, counts

    def replayed_rows(self, texts: Sequence[str], counts: dict[int, list[int]]) -> list[Row]:
        """Rows of a token-level model alone and with an SLLM, both with random weights: what is written is a text's own
        continuation, whose sentences the SLLM reads, and as many draft tokens are accepted as of the trained pair's.

        The SLLM with random weights sees no end of a sentence, so it always drafts as much as it may: a trained one is
        done earlier there, and what is lost by that counts against assisting.
        """
        helped, helper = self.pair
        config, dtype = helper.model.config, DTYPES[self.dtype]
        vocab_size = max(self.vocab_size, config.vocab_size)  # room for the tokenizer
        big, small = (replace(build, vocab_size=vocab_size) for build in self.builds())
        copied = {name: getattr(config, name) for name in ("max_sentences", "max_sentence_tokens", *COPIED)}
        layers = {name: getattr(config.autoencoder, name) for name in ("num_encoder_layers", "num_decoder_layers")}
        small = replace(small, **copied, **layers)
        # the second of three lies inside the texts: openings are titles and lists of chapters
        text = self.prompts(texts, 3, self.prompt_tokens[0] + self.new_tokens)[1]
        sllm = moved(small.sllm(small.lm()), self.device, dtype).eval()
        sllm.processor = helper.model.processor
        lm = moved(big.lm(), self.device, dtype).eval()
        write = partial(time_writing, lm, [text[: 1 + self.prompt_tokens[0]]], self.new_tokens)

        def assistant(num_guesses: int) -> SentenceAssistant:
            return ReplayedAssistant(sllm, num_guesses, text, mixed(counts[num_guesses]))

        rows, _ = self.compare(write, assistant, big.lm_name, small.sllm_name)
        for row in rows:
            row.protocol = f"{row.protocol}, acceptance of {helped.name}, {helper.name}"
        return rows

    def compare(
        self, write: Callable[..., Written], assistant: Callable[[int], SentenceAssistant], name: str, helper: str
    ) -> tuple[list[Row], list[Written]]:
        """Rows of a model alone and with each number of draft tokens, in turns, and what the first round wrote."""
        names = {f"{name}, {helper} drafts {k}": k for k in self.num_guesses}
        assisted = {each: lambda k=k: write(assistant=assistant(k)) for each, k in names.items()}
        found = alternate({name: write} | assisted, self.rounds)
        drawn = "" if self.temperature is None else f", temperature {self.temperature:g}"
        common = self.row(name, f"assist {self.prompt_tokens[0]}+{self.new_tokens}{drawn}", {})
        rows = [speed_row(found, each, common, speed_ratio=name) for each in found]
        for row, k in zip(rows[1:], names.values(), strict=True):
            row.extra["num_guesses"] = k
        return rows, [runs[0] for runs in found.values()]


def time_writing(
    lm: PreTrainedModel,
    prompts: Sequence[list[int]],
    num_new_tokens: int,
    assistant: SentenceAssistant | None = None,
    temperature: float | None = None,
) -> Written:
    """Transformers' `generate` with its cache, alone or assisted; end marks disabled. Ids are those of whole texts.

    Args:
        temperature: of draws, which are the same in every call; default: greedy.
    """
    written = Written()
    drawn: dict[str, Any] = dict(do_sample=temperature is not None)
    if temperature is not None:
        drawn |= dict(temperature=temperature, top_k=0)
    for prompt in prompts:
        torch.manual_seed(0)
        ids, arrivals = torch.tensor([prompt], device=lm.device), Arrivals()  # (1,L)
        if assistant is not None:  # Transformers hands no streamer on
            assistant.streamer = arrivals
        output = cast(Any, lm).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            streamer=arrivals if assistant is None else None,
            custom_generate=assistant,
            **drawn,
        )
        written.seconds += arrivals.seconds
        written.num_new_tokens += num_new_tokens
        written.ids.append(output[0].tolist())
        if assistant is not None:
            written.statistics.include(assistant.statistics)
            written.tokens_per_forward = written.statistics.tokens_per_forward
    return written


def mixed(counts: Sequence[int]) -> Iterator[int]:
    """Without end, in an order in which every stretch has nearly the shares of the whole: a run replays few of them."""
    ordered, step = sorted(counts), (5**0.5 - 1) / 2  # multiples of the golden ratio fill 0..1 evenly
    return (ordered[int(i * step % 1 * len(ordered))] for i in itertools.count())
