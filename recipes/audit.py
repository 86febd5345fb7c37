"""The causality audit alone: can any score see the text that it scores, or text after it?

    sllm audit --model runs/sllm_tiny runs/opt_tiny

For a text of S sentences and each k: sentence k and all after it are replaced, and every score and state before must
stay what it was, bit for bit where token counts are equal; the gradient of a sentence's score into its own and later
sentences' vectors must be zero; the cached path that generates must give the scores of the parallel one. Exit status 2
if a model fails, with the first finding.
"""

from dataclasses import dataclass

from lmbase.config import option, run
from lmbase.corpora import open_corpus
from sllm.evaluation import audit
from sllm.loading import load_model


@dataclass
class Config:
    model: list[str] = option([], "runs, folders or hub ids, each as PATH or NAME=PATH")
    data: str = option("stdlib", "where the audited text comes from: stdlib, hub:NAME, files")
    text_field: str = option("text", "the field of a record that holds the text")


def main(config: Config) -> None:
    if not config.model:
        raise ValueError("Nothing to audit: give --model PATH [PATH ...].")
    corpus = open_corpus(config.data, config.text_field)
    texts = [document.text for document, _ in zip(corpus.read("test"), range(20), strict=False)]
    for spec in config.model:
        loaded = load_model(spec)
        report = audit(loaded, texts)
        report.raise_if_failed(loaded.name)
        print(f"{loaded.name}: passed, {report.num_checks} checks")


if __name__ == "__main__":
    run(Config, main)
