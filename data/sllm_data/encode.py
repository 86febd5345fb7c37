"""Documents -> Arrow record batches of token ids, by one process or several, always in the same order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from lmbase.text.codec import MissingTokenError
from lmbase.text.processor import EncodedText, SentenceProcessor
from lmbase.text.segmentation import AUTO, choose_rule, is_unicode
from sllm_data.readers import Document, Skip

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("sentence_lengths", pa.list_(pa.int32())),
        ("sentence_bytes", pa.list_(pa.int32())),
        ("name", pa.string()),
    ]
)
CHUNK_CHARACTERS = 2**20  # what a worker gets at a time
SMALL_STREAM_CHUNKS = 4  # workers take seconds to start: a stream of no more chunks than this has none
# Forked from a clean process without threads: safe after CUDA and OpenMP were used here, and imports are paid once.
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
# The ratio of piecewise to whole-document tokens is measured on this much of each chunk's first document.
SAMPLE_BYTES = 2**15


@dataclass
class Chunk:
    """Documents that follow each other in a split, and where they stand in it."""

    documents: list[Document]
    split: str
    shard: int
    ends_shard: bool
    ends_split: bool
    documents_read: int  # documents of the split up to the end of this chunk
    digest: str  # SHA-256 of their names and texts


@dataclass
class Statistics:
    """Counts over some of the documents of a split; those of disjoint parts add up."""

    documents: int = 0
    bytes: int = 0
    sentences: int = 0
    tokens: int = 0
    tokens_per_sentence: list[int] = field(default_factory=list)  # [n]: sentences of n tokens
    piecewise_tokens: int = 0  # of a sample, cut into sentences
    whole_tokens: int = 0  # of the same sample, not cut
    rules: dict[str, int] = field(default_factory=dict)  # documents by the rule that cut them

    def add(self, other: "Statistics") -> None:
        for name in ("documents", "bytes", "sentences", "tokens", "piecewise_tokens", "whole_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        size = max(len(self.tokens_per_sentence), len(other.tokens_per_sentence))
        total = np.zeros(size, np.int64)
        for counts in (self.tokens_per_sentence, other.tokens_per_sentence):
            total[: len(counts)] += np.asarray(counts, np.int64)
        self.tokens_per_sentence = total.tolist()
        self.rules = {r: self.rules.get(r, 0) + other.rules.get(r, 0) for r in sorted({*self.rules, *other.rules})}


@dataclass
class EncodedChunk:
    batch: pa.RecordBatch  # one row per document, SCHEMA
    statistics: Statistics
    skips: list[Skip]


def encode_chunk(processor: SentenceProcessor, documents: list[Document]) -> EncodedChunk:
    """Cut and tokenise documents. What has no ids is left out and told: empty texts, lone surrogates, characters for
    which the tokenizer has no tokens."""
    skips: list[Skip] = []
    kept = []
    for document in documents:
        if not document.text:
            skips.append(Skip(document.name, "empty document"))
        elif not is_unicode(document.text):
            skips.append(Skip(document.name, "lone surrogate"))
        else:
            kept.append(document)
    kept, encoded = _encode(processor, kept, skips)
    lengths = [np.asarray(e.sentence_lengths, np.int32) for e in encoded]
    batch = pa.record_batch(
        [
            _list_array([np.asarray(e.input_ids, np.int32) for e in encoded]),
            _list_array(lengths),
            _list_array([np.asarray(e.sentence_bytes, np.int32) for e in encoded]),
            pa.array([document.name for document in kept], pa.string()),
        ],
        schema=SCHEMA,
    )
    statistics = Statistics(
        documents=len(kept),
        bytes=sum(sum(e.sentence_bytes) for e in encoded),
        sentences=sum(len(e.sentence_lengths) for e in encoded),
        tokens=sum(len(e.input_ids) for e in encoded),
        tokens_per_sentence=np.bincount(np.concatenate([np.zeros(0, np.int32), *lengths])).tolist(),
    )
    for document in kept:
        rule = choose_rule(document.text) if processor.rule == AUTO else processor.rule
        statistics.rules[rule] = statistics.rules.get(rule, 0) + 1
    if kept:
        statistics.piecewise_tokens, statistics.whole_tokens = _sample(processor, kept[0].text, encoded[0])
    return EncodedChunk(batch, statistics, skips)


def _encode(
    processor: SentenceProcessor, documents: list[Document], skips: list[Skip]
) -> tuple[list[Document], list[EncodedText]]:
    """The documents that the tokenizer can spell, and what they become; the others go to `skips`."""
    try:
        return documents, processor.encode_batch([document.text for document in documents])
    except MissingTokenError:
        pass  # one by one, to find out which
    kept, encoded = [], []
    for document in documents:
        try:
            encoded.append(processor.encode(document.text))
            kept.append(document)
        except MissingTokenError as error:
            skips.append(Skip(document.name, "no tokens for a character", str(error)))
    return kept, encoded


def _list_array(rows: list[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([np.zeros(0, np.int32), *rows])))


def _sample(processor: SentenceProcessor, text: str, encoded: EncodedText) -> tuple[int, int]:
    """Tokens of a document's first sentences: cut into sentences, and tokenised as one."""
    sizes = np.cumsum(encoded.sentence_bytes)
    sentences = max(1, int(np.searchsorted(sizes, SAMPLE_BYTES, side="right")))
    start = text.encode()[: int(sizes[sentences - 1])].decode()
    return sum(encoded.sentence_lengths[:sentences]), len(processor.codec.encode(start))


# -- processes ---------------------------------------------------------------------------------------------------------


def encode_in_order(
    chunks: Iterable[Chunk], processor: SentenceProcessor, num_workers: int
) -> Generator[tuple[Chunk, EncodedChunk], None, None]:
    """Encode chunks in `num_workers` processes, and yield the results in the order of the chunks.

    Memory holds a few chunks per worker, however long the stream. With one worker, or for a short stream, everything
    happens in this process.

    Raises:
        ValueError: a worker process died.
    """
    stream = iter(chunks)
    first = list(islice(stream, SMALL_STREAM_CHUNKS + 1))
    if num_workers == 1 or len(first) <= SMALL_STREAM_CHUNKS:
        for chunk in chain(first, stream):
            yield chunk, encode_chunk(processor, chunk.documents)
        return
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(processor,))
    waiting: deque[tuple[Chunk, Future[EncodedChunk]]] = deque()
    try:
        for chunk in chain(first, stream):
            waiting.append((chunk, pool.submit(_encode_in_worker, chunk.documents)))
            if len(waiting) > 2 * num_workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "A worker process died: killed for want of memory, or started from a script that has no "
            "`if __name__ == '__main__':` around its calls. --num_workers 1 does everything in one process."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker_processor: SentenceProcessor  # of a worker process


def _start_worker(processor: SentenceProcessor) -> None:
    global _worker_processor
    _worker_processor = processor
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(documents: list[Document]) -> EncodedChunk:
    return encode_chunk(_worker_processor, documents)
