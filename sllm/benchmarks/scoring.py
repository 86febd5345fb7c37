"""Seconds that exact scoring takes per MB (10^6 bytes) of text: OPT and the SLLM on it, the same text in turns.

Random weights, real text: scores mean nothing, and what they cost is what a trained model's cost. Always in fp32.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lmbase.benchmarking.timing import alternate, median
from lmbase.modeling.token_lm import TokenLM, score_tokens
from lmbase.report.rows import Row
from sllm.benchmarks.training import Build
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
    """A row for OPT, one for the SLLM's full window, and one for full window and equal context in one pass, as
    `sllm evaluate` takes them.

    Args:
        build: its vocabulary is at least as large as the data's.
        windows: tokens of OPT's windows, sentences of the SLLM's.
    """
    text = opening(data, "test", num_bytes)
    opt = build.opt().to(device).eval()  # type: ignore[arg-type]
    sllm = build.sllm(opt).to(device).eval()  # type: ignore[arg-type]
    own, equal = own_windows(sllm, windows[1]), equal_context(windows[0], windows[1])
    of_opt = functools.partial(score_tokens, TokenLM(opt), data.processor.tokenizer, text.texts, window=windows[0])

    def of_sllm(plans: Sequence[Planner]) -> None:
        encoded = data.processor.encode_batch(text.texts)  # OPT's clock, too, covers what makes tokens of a text
        score_plans(sllm, [e.sentences() for e in encoded], text.sizes, plans)

    names = {"OPT": (opt, "full window"), "SLLM": (sllm, "full window"), "both": (sllm, "full window, equal context")}
    found = alternate(
        {
            "OPT": functools.partial(_seconds, of_opt),
            "SLLM": functools.partial(_seconds, functools.partial(of_sllm, [own])),
            "both": functools.partial(_seconds, functools.partial(of_sllm, [own, equal])),
        },
        num_rounds,
    )
    megabytes = sum(text.sizes) / 1e6
    rows = []
    for key, (model, protocol) in names.items():
        per_megabyte = [seconds / megabytes for seconds in found[key]]
        ratios = [a / b for a, b in zip(found["OPT"], found[key], strict=True)]
        extra = {
            "seconds_per_megabyte": median(per_megabyte),
            "seconds_per_megabyte_low": min(per_megabyte),
            "seconds_per_megabyte_high": max(per_megabyte),
            "speed_ratio": median(ratios),
            "speed_ratio_low": min(ratios),
            "speed_ratio_high": max(ratios),
            "threads": torch.get_num_threads(),
        }
        rows.append(
            Row(
                model=f"{key if key == 'OPT' else 'SLLM'} {build.size}",
                data=data.name,
                protocol=f"evaluate {windows[0]} tokens, {windows[1]} sentences: {protocol}",
                dtype="fp32",
                device=device,
                parameters=sum(p.numel() for p in model.parameters()),
                bytes=sum(text.sizes),
                tokens=sum(len(s) for sentences in text.documents for s in sentences),
                extra=extra,
            )
        )
    return rows


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
