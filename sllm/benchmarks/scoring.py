"""Seconds that exact scoring takes per MB (10^6 bytes) of text: a token-level model and the SLLM on it, in turns.

Random weights, real text: scores mean nothing, and what they cost is what a trained model's cost. Always in fp32.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import PositiveFloat, PositiveInt

from lmbase.benchmarking.timing import alternate, clocked, ratio_columns, spread_columns
from lmbase.config import option
from lmbase.modeling.devices import moved
from lmbase.modeling.token_lm import TokenLM, score_tokens
from lmbase.report.rows import Row
from sllm.benchmarks.keys import LengthKeys, TimedKeys
from sllm.benchmarks.replaying import Build
from sllm.scoring import Planner, equal_context, own_windows, score_plans
from sllm_data.prepared import PreparedData


def opening(data: PreparedData, num_bytes: int) -> list[list[list[int]]]:
    """Sentences, as ids, of the first documents of the test split until they have so many bytes; the last is cut behind
    a sentence.

    Raises:
        ValueError: no text in the split.
    """
    arrays, documents, size = data.split("test"), [], 0
    for first, stop in zip(arrays.document_sentences, arrays.document_sentences[1:], strict=False):
        sentences: list[list[int]] = []
        for s in range(int(first), int(stop)):
            if size >= num_bytes:
                break
            sentences.append(arrays.tokens(*map(int, arrays.sentence_tokens[s : s + 2])).tolist())
            size += int(arrays.sentence_bytes[s])
        if sentences:
            documents.append(sentences)
    if not documents:
        raise ValueError(f"The test split of {data.name!r} holds no text to score.")
    return documents


@dataclass
class Evaluate(LengthKeys, TimedKeys):
    """Exact scoring."""

    window_tokens: PositiveInt = option(511, "of the subset evaluate: the token-level model's windows")
    window_sentences: PositiveInt = option(48, "of the subset evaluate: the SLLM's windows")
    score_megabytes: PositiveFloat = option(0.3, "of the subset evaluate: about so much text is scored")

    QUICK = {"score_megabytes": 0.03}

    def parts(self, build: Build, lengths: Sequence[int]) -> Iterator[Callable[[], list[Row]]]:
        yield functools.partial(self.rows, build)

    def rows(self, build: Build) -> list[Row]:
        """A row for the token-level model, one for the SLLM's full window, and one for full window and equal context in
        one pass, as `sllm evaluate` takes them."""
        data = self.prepared
        build = replace(build, vocab_size=len(data.processor.tokenizer))
        documents = opening(data, int(self.score_megabytes * 1e6))
        texts = [data.processor.decode([i for s in sentences for i in s]) for sentences in documents]
        sizes = [len(text.encode()) for text in texts]
        lm = build.lm()
        sllm = moved(build.sllm(lm), self.device).eval()
        token_lm = TokenLM(moved(lm, self.device)).eval()
        windows = self.window_tokens, self.window_sentences
        own, equal = own_windows(sllm, windows[1]), equal_context(*windows)

        def by_sentence(plans: Sequence[Planner]) -> None:
            encoded = data.processor.encode_batch(texts)  # the other's clock, too, covers what makes tokens of a text
            score_plans(sllm, [e.sentences() for e in encoded], sizes, plans)

        by_token = functools.partial(score_tokens, token_lm, data.processor.tokenizer, texts, window=windows[0])
        runners = {
            (build.lm_name, "full window"): clocked(by_token),
            (build.sllm_name, "full window"): clocked(functools.partial(by_sentence, [own])),
            (build.sllm_name, "full window, equal context"): clocked(functools.partial(by_sentence, [own, equal])),
        }
        found = alternate(runners, self.rounds)
        baseline = next(iter(found.values()))
        protocol = f"evaluate {windows[0]} tokens, {windows[1]} sentences"
        num_tokens = sum(len(s) for sentences in documents for s in sentences)
        rows = []
        for (name, told), seconds in found.items():
            extra = spread_columns("seconds_per_megabyte", [x / sum(sizes) * 1e6 for x in seconds])
            extra |= ratio_columns("speed_ratio", baseline, seconds) | {"threads": torch.get_num_threads()}
            row = self.row(name, f"{protocol}: {told}", extra, dtype="fp32", data=data.name)
            row.parameters = sum(p.numel() for p in (lm if name == build.lm_name else sllm).parameters())
            row.bytes, row.tokens = sum(sizes), num_tokens
            rows.append(row)
        return rows
