"""What ends a text that is being written, beside the model's own mark and the number of tokens.

L tokens of a text.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, StoppingCriteria

from lmbase.text.stop_strings import StopStrings


class Listener(Protocol):
    """A stopping criterion that tells the texts of a call apart, so that each may be somebody else's."""

    def take(self, text: int, token: int) -> bool:
        """The next token of a text; returns whether the text ends with it."""

    def show(self) -> None:
        """What was taken may be shown: a pass is over, of an SLLM a sentence."""


class Endings:
    """Asked after each token of each text of a call, one token after the other also where several come at once.

    Args:
        config: its stop_strings and max_time count, and its eos_token_id, as `end_ids` has them.
        criteria: the user's; they see one text at a time, as logits processors do. Listeners may be among them.
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
        if others := [one for one in criteria or () if not callable(one) and not hasattr(one, "take")]:
            raise ValueError(f"stopping_criteria hold {others[0]!r:.60}, which cannot be called: give criteria.")
        strings = config.stop_strings
        if strings and tokenizer is None:
            raise ValueError(
                f"stop_strings={strings!r}: they are looked for in the text, and this model has no tokenizer; set its "
                "tokenizer (an SLLM's processor), or give tokenizer=..."
            )
        ends: Any = config.eos_token_id
        self.ids = frozenset(ends[1:] if isinstance(ends, list) else ())
        self.listeners: list[Listener] = [one for one in criteria or () if hasattr(one, "take")]  # type: ignore[misc]
        self.criteria, self.device = [one for one in criteria or () if not hasattr(one, "take")], device
        self.strings = [StopStrings(cast(Any, tokenizer), strings, ids) for ids in texts] if strings else []
        self.deadline = None if config.max_time is None else time.monotonic() + config.max_time
        self.watching = bool(self.strings or self.criteria or self.listeners) or self.deadline is not None

    def reason(self, text: int, token: int, ids: Callable[[], list[int]]) -> str:
        """Why a text ends with its newest token: `stop` or `time`; empty if it does not.

        Args:
            ids: gives all ids of the text, the newest with them.
        """
        told = [listener.take(text, token) for listener in self.listeners]  # each is asked
        if any(told):
            return "stop"
        if self.strings and self.strings[text].add(token):
            return "stop"
        if self.criteria:
            row = torch.tensor([ids()], device=self.device)  # (1,L)
            if any(_says_stop(criterion(row, None)) for criterion in self.criteria):
                return "stop"
        return "time" if self.deadline is not None and time.monotonic() >= self.deadline else ""

    def show(self) -> None:
        """A pass, of an SLLM a sentence, is over."""
        for listener in self.listeners:
            listener.show()

    def shown(self, text: int, written: str) -> str:
        """What is new of a text, without the string that ended it and what its last token holds behind that."""
        return written[: self.strings[text].found] if self.strings else written


def _says_stop(said: Any) -> bool:
    """What a criterion returned: a truth, or one for each text of one."""
    try:
        return bool(torch.as_tensor(said).all())
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"A stopping criterion returned {said!r:.60}: return True, False, or a tensor of them."
        ) from error


class EndedByRules(StoppingCriteria):
    """The rules as Transformers' own `generate` asks for them, of texts in rows of one length.

    Args:
        marks: ids that end a text. padding: ids before the text in each row.

    Attributes: found: why each text ended, if rules ended it. lengths: ids of each row when it ended, its mark counted.
    """

    def __init__(self, endings: Endings, marks: Iterable[int], padding: Sequence[int] = (0,)):
        self.endings, self.marks, self.padding = endings, frozenset(marks), padding
        self.found, self.lengths = [""] * len(padding), [0] * len(padding)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        for b, token in enumerate(input_ids[:, -1].tolist()):
            if self.lengths[b]:
                continue
            if self.endings.watching and token not in self.marks:
                row = input_ids[b, self.padding[b] :]
                self.found[b] = self.endings.reason(b, token, row.tolist)
            if self.found[b] or token in self.marks:
                self.lengths[b] = input_ids.shape[1]
        self.endings.show()
        return torch.tensor([length > 0 for length in self.lengths], device=input_ids.device)
