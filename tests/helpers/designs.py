"""Tiny models to plan for."""

from transformers import PreTrainedConfig

from sllm.benchmarks.planning import SentenceDesign, TokenDesign, config_of

LENGTHS = (3, 1, 7, 12, 5, 9)


def trunk(spec: str = "random:16x2") -> PreTrainedConfig:
    config = config_of(spec)
    config.vocab_size, config.max_position_embeddings = 300, 100
    return config


def sentences(spec: str = "random:16x2", **options) -> SentenceDesign:
    given = dict(max_sentences=5) | options
    return SentenceDesign(trunk(spec), LENGTHS, tuple(given.items()), max_sentence_tokens=12)


def tokens(spec: str = "random:16x2") -> TokenDesign:
    return TokenDesign(trunk(spec), LENGTHS, 30)
