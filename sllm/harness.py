"""Any model of this toolkit in lm-evaluation-harness, as the model `sllm`.

    lm-eval run --model sllm --model_args pretrained=runs/sllm_tiny --tasks lambada_openai
    python -m sllm.harness run --model sllm --model_args pretrained=runs/sllm_tiny --tasks lambada_openai

The second form is for releases of lm-eval (0.4.13 and before) that do not look for models in other packages.
docs/other-tools.md says what the figures mean.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.text.codec import MissingTokenError
from lmbase.text.segmentation import LoneSurrogateError
from lmbase.text.tokenizers import decode_ids, encode_text
from sllm.evaluation.loaded import Writing
from sllm.loading import load_model

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
except ImportError as error:
    missing = "lm-evaluation-harness is not installed: pip install 'sllm[lm-eval]'."
    if __name__ == "__main__":
        raise SystemExit(f"error: {missing}") from None
    raise ImportError(missing) from error

logger = logging.getLogger(__name__)
Ask = Callable[[Sequence[Any]], Iterable[Any]]  # requests in, an answer for each out
BATCH = 16  # requests at a time, where nothing else is asked for
NO_WINDOW = 2**31  # tokens of a window that no text fills
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names that tasks use
DRAWING = ("temperature", "top_k", "top_p")  # say nothing where nothing is drawn
DTYPE_NAMES = DTYPES | {"auto": torch.float32, **{str(dtype)[6:]: dtype for dtype in DTYPES.values()}}


class HarnessLM(LM):
    """A model as the harness asks it.

    Args:
        pretrained: a run, a folder or a hub id: an SLLM, a multi-token or a plain token-level model.
        batch_size: requests that are scored at a time; `auto` is 16. Texts are written one by one.
        device: as recipes name it. dtype: fp32, bf16 or fp64, or as PyTorch names them.
        max_length: positions of a token-level model's window; default: as many as it was trained on here, else all.

    Raises:
        ValueError: no such model, an autoencoder, or an argument that is not known or does not fit.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        dtype: str = "fp32",
        max_length: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        others.pop("max_batch_size", None)  # the harness hands it to every model
        if others:
            known = "pretrained, batch_size, device, dtype, max_length"
            raise ValueError(f"The model sllm knows no argument {', '.join(others)}; it takes {known}.")
        if not pretrained:
            raise ValueError("No model is named: give --model_args pretrained=DIR, a run, a folder or a hub id.")
        if dtype not in DTYPE_NAMES:
            raise ValueError(f"dtype={dtype!r} is not known; known are {', '.join(DTYPE_NAMES)}.")
        self.batch_size = _batch_size(batch_size)
        self.loaded = load_model(f"{Path(pretrained).name.replace('=', '-') or 'model'}={pretrained}")
        if not self.loaded.predicts:
            raise ValueError(
                f"{pretrained!r} is {self.loaded.shown}: it predicts no text, so no task can be put to it."
            )
        if max_length is not None:
            self._set_window(max_length)
        if device == "cuda:0" and not torch.cuda.is_available():
            device = "auto"  # the harness asks for it where nobody named a device
        self.loaded.to(choose_device(device or "auto"), DTYPE_NAMES[dtype])
        self.tokenizer, self._device = self.loaded.tokenizer, self.loaded.model.device

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """From the command line's --model_args, which may also hold what has a flag of its own (device, batch_size)."""
        return cls(**{**(additional_config or {}), **arg_dict})

    def _set_window(self, max_length: int) -> None:
        if self.loaded.by_sentence:
            raise ValueError("max_length counts tokens, and an SLLM's window is its max_sentences: leave it out.")
        config = self.loaded.model.config
        if not isinstance(max_length, int) or not 2 <= max_length <= config.max_position_embeddings:
            told = f"this model has {config.max_position_embeddings} positions; give a whole number from 2 on"
            raise ValueError(f"max_length={max_length!r}: {told}.")
        config.training_context = max_length

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        dtype = str(self.loaded.model.dtype)
        return {"model_num_parameters": self.loaded.num_parameters, "model_dtype": dtype, "kind": self.loaded.shown}

    def apply_chat_template(self, *asked: Any, **more: Any) -> Any:
        """Refused, and so is what else the harness asks of a model with --apply_chat_template.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "--apply_chat_template: models here read a text, in which a template's special tokens have no place, "
            "and were trained on no conversations. Leave it out; doc_to_text of a task is what they read."
        )

    chat_template = apply_chat_template
    tokenizer_name = property(apply_chat_template)  # the harness marks cached requests of chats with it

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p of each continuation after its context, its end left open, and whether greedy writing gives it."""

        def ask(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[float, bool]]:
            return ((-found.nats, found.greedy) for found in self.loaded.continuations(pairs))

        return self._in_batches("loglikelihood", requests, ask, (-math.inf, False), disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, their ends included: what `sllm evaluate` calls full window."""

        def ask(texts: Sequence[tuple[str]]) -> Iterator[float]:
            found = self.loaded.score([text for (text,) in texts], NO_WINDOW)["full window"]
            return (-document.nats for document in found)

        return self._in_batches("loglikelihood_rolling", requests, ask, -math.inf, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that are written after contexts, up to the first of some strings."""
        written = []
        for request in tqdm(requests, "sllm generate_until", disable=disable_tqdm):
            written += _answers(lambda asked: [self._write(*asked[0])], [request.args], "")
            self.cache_hook.add_partial("generate_until", request.args, written[-1])
        return written

    def _in_batches(
        self, name: str, requests: list[Instance], ask: Ask, impossible: Any, disable_tqdm: bool
    ) -> list[Any]:
        """Answers in the order of the requests, which are asked in that of their lengths, the longest first."""
        order = sorted(range(len(requests)), key=lambda i: -sum(map(len, requests[i].args)))
        answers: list[Any] = [None] * len(requests)
        with tqdm(total=len(requests), desc=f"sllm {name}", disable=disable_tqdm) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                for i, answer in zip(batch, _answers(ask, [requests[i].args for i in batch], impossible), strict=True):
                    answers[i] = answer
                    self.cache_hook.add_partial(name, requests[i].args, answer)
                bar.update(len(batch))
        return answers

    def _write(self, context: str, settings: dict[str, Any]) -> str:
        settings = {name: value for name, value in settings.items() if value is not None}
        until = settings.pop("until", None) or []
        settings["stop_strings"] = [stop for stop in until if stop] if isinstance(until, list | tuple) else [until]
        limits = [settings.pop(name) for name in LIMITS if name in settings]
        warmth = settings.get("temperature", 0)
        if not isinstance(warmth, int | float):  # a task's YAML may quote it
            raise ValueError(f"temperature={warmth!r}: give a number, without quotes.")
        drawn = settings.get("do_sample", warmth > 0)
        settings["do_sample"] = bool(drawn) if isinstance(drawn, int) else drawn  # of a word writing itself tells
        if not settings["do_sample"]:
            settings = {name: value for name, value in settings.items() if name not in DRAWING}
        limit = int(limits[0]) if limits else 256
        how = Writing(limit, seed=settings.pop("seed", None), settings=settings)
        if self.loaded.by_sentence:
            how.overflow = "slide"
        else:
            context = self._that_fits(context, limit)
        return self.loaded.write(context, how).text

    def _that_fits(self, context: str, num_new: int) -> str:
        """The end of a context that leaves room for so many tokens, as the harness's own models read it."""
        room = (self.loaded.room or NO_WINDOW) - num_new
        if room < 1:
            raise ValueError(f"{num_new} new tokens do not fit {self.loaded.room} positions: lower max_gen_toks.")
        while len(ids := encode_text(self.tokenizer, context)) > room:
            context = decode_ids(self.tokenizer, ids[-room:]).lstrip("\ufffd")
        return context


def _answers(ask: Ask, asked: Sequence[Any], impossible: Any) -> list[Any]:
    """What `ask` says of requests. One with a character that no tokens spell, or that is none, is `impossible` to the
    model, and told; it ends no run of hours."""
    try:
        return list(ask(asked))
    except (MissingTokenError, LoneSurrogateError) as error:
        if len(asked) > 1:
            return [answer for one in asked for answer in _answers(ask, [one], impossible)]
        logger.warning("A request counts as impossible: %s", error)
        return [impossible]


def _batch_size(given: int | str | None) -> int:
    text = str(BATCH if given is None or str(given).startswith("auto") else given)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"batch_size={given!r}: give a number from 1 on, or auto.")
    return int(text)


if __name__ == "__main__":
    import lm_eval.models  # noqa: F401  (its own models are registered first)
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if "sllm" not in model_registry:
        model_registry.register("sllm", target="sllm.harness:HarnessLM")
    cli_evaluate()
