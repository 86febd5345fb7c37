"""Serve models on this machine to everything that talks to OpenAI's interface, streamed sentence by sentence.

    sllm serve runs/demo/sllm
    sllm serve runs/demo/sllm runs/demo/opt-tuned --port 8001
    sllm serve runs/sllm_tiny --dtype bf16 --weights int8

    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"model": "sllm", "prompt": "Returns the", "max_tokens": 64, "stream": true}'

A model's name is that of its folder; NAME=FOLDER chooses another. The server needs `pip install 'sllm[serve]'`, checks
no keys, and listens to this machine only; --host 0.0.0.0 lets everybody in who reaches it.
"""

import socket
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from lmbase.config import option, run, single_process
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.processes import tell_stopped
from sllm.evaluation.loaded import LoadedModel, Writing
from sllm.loading import WEIGHTS, load_model

POSITIONAL = "model"
LOCAL = ("127.0.0.1", "localhost", "::1")
STOP_SECONDS = 5  # for answers that are being written when the server is stopped


@dataclass
class Config:
    model: list[str] = option([], "runs, folders or hub ids; NAME=FOLDER chooses the name")
    host: str = option("127.0.0.1", "the address to listen at; 0.0.0.0: all of this machine")
    port: int = option(8000, "0: any free one")
    max_tokens: PositiveInt = option(1024, "new tokens of a text, at most")
    max_choices: PositiveInt = option(16, "texts of one request, at most")
    max_waiting: PositiveInt = option(64, "texts that may wait; more are told to come later")
    max_batch: PositiveInt = option(8, "texts that are written together, at most")
    max_seconds: PositiveFloat = option(120.0, "from a request to its end, at most")
    num_draft: str = option("auto", "heads to write with; 1: plain decoding; auto: as many as pay, of those there are")
    overflow: Literal["stop", "slide"] = option("stop", "when an SLLM's positions are used up: stop or slide")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the weights and of the computation")
    weights: Literal["dtype", "int8", "int4"] = option("dtype", WEIGHTS)
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")


def load(config: Config, autoencoders: bool = False) -> dict[str, LoadedModel]:
    """The models, by their names.

    Args:
        autoencoders: may be among them.
    """
    if not config.model:
        raise ValueError("Nothing to serve: give --model FOLDER [FOLDER ...], or sllm serve FOLDER.")
    device = choose_device(config.device)
    models: dict[str, LoadedModel] = {}
    for spec in config.model:
        loaded = load_model(spec)
        if not (loaded.predicts or autoencoders):
            raise ValueError(f"{spec} is {loaded.shown}: it writes what it read. Serve a language model.")
        if loaded.name in models:
            raise ValueError(f"Two models are called {loaded.name!r}: write --model NAME=FOLDER for one of them.")
        loaded.to(device, DTYPES[config.dtype])
        if config.weights != "dtype" and loaded.predicts:
            loaded.pack(config.weights)
        if loaded.predicts:
            loaded.write("", writing(config, loaded))  # settings that the model does not take are told now
        models[loaded.name] = loaded
    if config.overflow != "stop" and not any(loaded.by_sentence for loaded in models.values()):
        raise ValueError(
            f"overflow={config.overflow!r} is for SLLMs, and none is among {', '.join(models)}: leave it out."
        )
    return models


def writing(config: Config, loaded: LoadedModel) -> Writing:
    """Settings that all texts of a model share."""
    return Writing(1, overflow=config.overflow if loaded.by_sentence else "stop", num_draft=config.num_draft)


def serve(config: Config, playground: bool = False) -> None:
    try:
        import uvicorn

        from sllm.serving.app import build_app
        from sllm.serving.playground import add_playground
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'sllm[serve]'") from error
    from sllm.serving.engine import Engine, Limits

    models = load(config, autoencoders=playground)
    limits = Limits(config.max_tokens, config.max_choices, config.max_waiting, config.max_batch, config.max_seconds)
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        bound = socket.create_server((config.host, config.port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {config.host} --port {config.port}: {error}; --port 0 takes any free one.") from error
    shared = {name: writing(config, loaded) for name, loaded in models.items()}
    engines = {name: Engine(loaded, limits, shared[name]) for name, loaded in models.items()}
    hosts = [*LOCAL, "[::1]"] if config.host in LOCAL else None
    app = build_app(engines, hosts)
    if playground:
        add_playground(app, engines, shared)
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=STOP_SECONDS)
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{bound.getsockname()[1]}/{'' if playground else 'v1'}"
    print(f"{', '.join(models)} at {address} (Ctrl-C stops)", flush=True)
    try:
        uvicorn.Server(settings).run(sockets=[bound])
    except KeyboardInterrupt as stop:  # there is nothing that the same command would continue
        raise SystemExit(tell_stopped(stop, continues=False)) from None


@single_process
def main(config: Config) -> None:
    serve(config)


if __name__ == "__main__":
    run(Config, main)
