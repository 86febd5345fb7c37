"""A page on this machine that shows what models do: writing side by side, costs, sentences as vectors.

    sllm play                                    # the two small models that come with the package
    sllm play runs/demo/sllm runs/demo/opt-tuned
    sllm play runs/demo/sllm runs/demo/mtp runs/demo/vae --port 8001

Texts are written from one prompt, with the ends of sentences, drafts, tokens/s and the bytes of the cache; a text's
bits are shown sentence by sentence; a sentence becomes one vector and is written out again; the way from one sentence
to another is read. The printed address is opened in a browser. It serves all that `sllm serve` does, too.
"""

from dataclasses import replace

from lmbase.config import run, single_process
from sllm_recipes.serve import Config, serve

POSITIONAL = "model"
EXAMPLES = ["example:sllm", "example:lm"]


@single_process
def main(config: Config) -> None:
    serve(replace(config, model=config.model or EXAMPLES), playground=True)


if __name__ == "__main__":
    run(Config, main)
