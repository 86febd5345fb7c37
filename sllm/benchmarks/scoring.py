"""Seconds that exact scoring takes per MB (10^6 bytes) of text: a token-level model and the SLLM on it, in turns.

Random weights, real text: scores mean nothing, and what they cost is what a trained model's cost. Always in fp32.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lmbase.benchmarking.timing import alternate, clocked, ratio_columns, spread_columns
from lmbase.modeling.devices import moved
from lmbase.modeling.token_lm import TokenLM, score_tokens
from lmbase.report.rows import Row
from sllm.benchmarks.build import Build
from sllm.scoring import Planner, equal_context, own_windows, score_plans
from sllm_data.prepared import PreparedData


@dataclass(frozen=True)
class ScoredText:
    """Documents as sentences of token ids, and as text."""

    documents: list[list[list[int]]]
    texts: list[str]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each."""
        return [len(text.encode()) for text in self.texts]


def opening(data: PreparedData, split: str, num_bytes: int) -> ScoredText:
    """A split's first documents until they have so many bytes; the last is cut behind a sentence.

    Raises:
        ValueError: no text in the split.
    """
    arrays, documents, size = data.split(split), [], 0
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
        raise ValueError(f"The {split} split of {data.name!r} holds no text to score.")
    texts = [data.processor.decode([i for s in sentences for i in s]) for sentences in documents]
    return ScoredText(documents, texts)


def measure_scoring(
    build: Build, data: PreparedData, num_bytes: int, windows: tuple[int, int], device: str, num_rounds: int
) -> list[Row]:
    """A row for the token-level model, one for the SLLM's full window, and one for full window and equal context in one
    pass, as `sllm evaluate` takes them.

    Args:
        build: its vocabulary is at least as large as the data's.
        windows: tokens of the token-level model's windows, sentences of the SLLM's.
    """
    text = opening(data, "test", num_bytes)
    lm = build.lm()
    sllm = moved(build.sllm(lm), device).eval()
    token_lm = TokenLM(moved(lm, device)).eval()
    own, equal = own_windows(sllm, windows[1]), equal_context(windows[0], windows[1])

    def by_sentence(plans: Sequence[Planner]) -> None:
        encoded = data.processor.encode_batch(text.texts)  # the other's clock, too, covers what makes tokens of a text
        score_plans(sllm, [e.sentences() for e in encoded], text.sizes, plans)

    by_token = functools.partial(score_tokens, token_lm, data.processor.tokenizer, text.texts, window=windows[0])
    runners = {
        (build.lm_name, "full window"): clocked(by_token),
        (build.sllm_name, "full window"): clocked(functools.partial(by_sentence, [own])),
        (build.sllm_name, "full window, equal context"): clocked(functools.partial(by_sentence, [own, equal])),
    }
    found = alternate(runners, num_rounds)
    baseline = next(iter(found.values()))
    megabytes = sum(text.sizes) / 1e6
    return [
        Row(
            model=name,
            data=data.name,
            protocol=f"evaluate {windows[0]} tokens, {windows[1]} sentences: {protocol}",
            dtype="fp32",
            device=device,
            parameters=sum(p.numel() for p in (lm if name == build.lm_name else sllm).parameters()),
            bytes=sum(text.sizes),
            tokens=sum(len(s) for sentences in text.documents for s in sentences),
            extra={
                **spread_columns("seconds_per_megabyte", [x / megabytes for x in seconds]),
                **ratio_columns("speed_ratio", baseline, seconds),
                "threads": torch.get_num_threads(),
            },
        )
        for (name, protocol), seconds in found.items()
    ]
