"""What ends a text that is being written, beside the model's own mark and the number of tokens.

L tokens of a text.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, StoppingCriteria

from lmbase.text.stop_strings import StopStrings


class Endings:
    """Asked after each token of each text of a call, one token after the other also where several come at once.

    Args:
        config: its stop_strings and max_time count, and its eos_token_id, as `end_ids` has them.
        criteria: the user's; they see one text at a time, as logits processors do.
        tokenizer: what stop strings are spelled with.
        texts: the ids that each text begins with.

    Attributes:
        ids: that end a text beside the model's own mark; none of them becomes part of it.
        watching: there is more to ask for than ids.

    Raises:
        ValueError: stop strings without a tokenizer, criteria that are no list.
    """

    def __init__(
        self,
        config: GenerationConfig,
        criteria: Sequence[Callable] | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        texts: Iterable[Iterable[int]] = (),
        device: torch.device | str = "cpu",
    ):
        if criteria is not None and not isinstance(criteria, Sequence):
            raise ValueError(f"stopping_criteria is a {type(criteria).__name__}: give a list of stopping criteria.")
        strings = config.stop_strings
        if strings and tokenizer is None:
            raise ValueError(
                f"stop_strings={strings!r}: they are looked for in the text, and this model has no tokenizer; set its "
                "tokenizer (an SLLM's processor), or give tokenizer=..."
            )
        ends: Any = config.eos_token_id
        self.ids = frozenset(ends[1:] if isinstance(ends, list) else ())
        self.criteria, self.device = criteria or (), device
        self.strings = [StopStrings(cast(Any, tokenizer), strings, ids) for ids in texts] if strings else []
        self.deadline = None if config.max_time is None else time.monotonic() + config.max_time
        self.watching = bool(self.strings or self.criteria) or self.deadline is not None

    def reason(self, text: int, token: int, ids: Callable[[], list[int]]) -> str:
        """Why a text ends with its newest token: `stop` or `time`; empty if it does not.

        Args:
            ids: gives all ids of the text, the newest with them.
        """
        if self.strings and self.strings[text].add(token):
            return "stop"
        if self.criteria:
            row = torch.tensor([ids()], device=self.device)  # (1,L)
            if any(bool(torch.as_tensor(criterion(row, None)).all()) for criterion in self.criteria):
                return "stop"
        return "time" if self.deadline is not None and time.monotonic() >= self.deadline else ""

    def shown(self, text: int, written: str) -> str:
        """What is new of a text, without the string that ended it and what its last token holds behind that."""
        return written[: self.strings[text].found] if self.strings else written


class EndedByRules(StoppingCriteria):
    """The rules as Transformers' own `generate` asks for them, of one text; `found` says why it ended."""

    def __init__(self, endings: Endings, marks: Iterable[int]):
        self.endings, self.marks, self.found = endings, frozenset(marks), ""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        token = int(input_ids[0, -1])
        if self.endings.watching and token not in self.marks:
            self.found = self.endings.reason(0, token, lambda: input_ids[0].tolist())
        return torch.full((1,), bool(self.found), device=input_ids.device)
