"""A server in a thread, as `sllm serve` starts it, for clients that know nothing of it."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from openai import OpenAI
from small_runs import sllm

from sllm.evaluation.loaded import LoadedModel, Writing
from sllm.serving.app import build_app
from sllm.serving.engine import Engine, Limits
from sllm.serving.playground import add_playground


@contextmanager
def served(models: Mapping[str, LoadedModel], limits: Limits | None = None, playground: bool = False) -> Iterator[str]:
    """The address of a server of models."""
    engines = {name: Engine(model, limits or Limits(), Writing(0)) for name, model in models.items()}
    bound = socket.create_server(("127.0.0.1", 0))
    app = build_app(engines, ["127.0.0.1"])
    if playground:
        add_playground(app, engines, dict.fromkeys(models, Writing(0)))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def asked_until_stopped(command: str, ask: Callable[[str], object]) -> str:
    """Run `sllm COMMAND` at a free port until a client has asked, and stop it as a terminal does; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def ask_and_stop() -> None:
        try:
            ask(address)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_and_stop)
    asking.start()
    with pytest.raises(SystemExit) as stopped:
        sllm(f"{command} --port {port} --device cpu")
    asking.join()
    assert stopped.value.code == 143
    return address


def client_of(address: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60, **options)
