"""The causality audit alone: can any score see the text that it scores, or text after it?

    sllm audit --model runs/sllm_tiny runs/lm_tiny

For a text of S sentences and each k: sentence k and all after it are replaced, and every score and state before must
stay what it was, bit for bit where token counts are equal; the gradient of a sentence's score into its own and later
sentences' vectors must be zero; the cached path that generates must give the scores of the parallel one; nothing beside
the text in its batch or before a window may count. The text is the longest of the test split's first 20. All models are
audited; if one fails, the exit status is 2, with the first finding of each that does.
"""

from dataclasses import dataclass

from lmbase.config import option, run, single_process
from lmbase.modeling.devices import choose_device
from sllm.evaluation.likelihood import AUDIT_TEXTS, audit_loaded
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model


@dataclass
class Config:
    model: list[str] = option([], "runs, folders or hub ids, each as PATH or NAME=PATH")
    data: str | list[str] = option("stdlib", "where the text comes from: a prepared folder, stdlib, hub:NAME, files")
    text_field: str = option("text", "the field of a record that holds the text")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")


@single_process
def main(config: Config) -> None:
    if not config.model:
        raise ValueError("Nothing to audit: give --model PATH [PATH ...].")
    device = choose_device(config.device)
    texts, _ = read_texts(config.data, "test", config.text_field, AUDIT_TEXTS, config.model)
    failures = []
    for spec in config.model:
        try:
            loaded = load_model(spec)
            loaded.to(device)
            report = audit_loaded(loaded, texts)
            report.raise_if_failed(loaded.name)
            print(f"{loaded.name}: passed, {report.num_checks} checks")
        except ValueError as error:  # told at the end; the others are audited all the same
            print(f"{spec}: NOT passed")
            failures.append(str(error))
    if failures:
        raise ValueError("\n".join(failures))


if __name__ == "__main__":
    run(Config, main)
