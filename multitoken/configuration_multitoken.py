"""Configuration of the multi-token language model: a trunk, its heads, and how they hang on it."""

from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from lmbase.config import choice_faults, least_faults
from lmbase.modeling.configurations import check_keys, refuse, type_faults, unread_faults
from lmbase.modeling.trunk import as_config, check_inner_trunk, special_ids, with_layers
from multitoken.heads import HEAD_KINDS

DRAFT_TARGETS = ("text", "greedy")


class MultiTokenLMConfig(PreTrainedConfig):
    """n heads on one trunk; head i predicts the i-th next token (arXiv 2404.19737, section 2).

    Args:
        trunk: nested configuration (or a dict of its fields) of the layers below the heads, a decoder-only model's.
        num_future_tokens: n, the number of heads.
        head_kind: what a head is and what it reads (appendix B of the paper):
            `parallel`: one transformer block on the trunk's states;
            `linear`: one linear layer on the trunk's states;
            `causal`: one block on the states of the head before it;
            `anticausal`: one block on the states of the head after it, the last head's on the trunk's.
        own_unembeddings: each head has its own vocabulary matrix (published for bytes); else all share the trunk's.
        head_weights: factor of each head's loss; None: all 1.
        draft_transitions: guesses know the guess before them (`multitoken.transitions`).
        train_transitions_only: everything else stays as it is, and so does the likelihood.
        draft_targets: what transitions learn where nothing else learns: the `text`, or (`greedy`) what head 1 itself
            would write after each of its tokens, which is what guesses are verified against.
        draft_tree: paths of a tree to draft with, chosen by measured acceptance (see `multitoken.DraftTree`).
    """

    model_type = "multi_token_lm"
    keys_to_ignore_at_inference = ["losses", "correct"]
    choices = {"head_kind": HEAD_KINDS, "draft_targets": DRAFT_TARGETS}
    least: ClassVar[dict[str, float]] = {"num_future_tokens": 1}
    sub_configs = {"trunk": AutoConfig}

    def __init__(
        self,
        trunk: PreTrainedConfig | dict | None = None,
        num_future_tokens: int = 4,
        head_kind: str = "parallel",
        own_unembeddings: bool = False,
        head_weights: list[float] | None = None,
        draft_transitions: bool = False,
        train_transitions_only: bool = False,
        draft_targets: str = "text",
        draft_tree: list[list[int]] | None = None,
        **kwargs,
    ):
        check_keys(self, kwargs)
        self.trunk = as_config(trunk)
        self.num_future_tokens = num_future_tokens
        self.head_kind = head_kind
        self.own_unembeddings = own_unembeddings
        self.head_weights = head_weights
        self.draft_transitions = draft_transitions
        self.train_transitions_only = train_transitions_only
        self.draft_targets = draft_targets
        self.draft_tree = draft_tree
        ids = special_ids(self.trunk)
        for name, value in (("pad_token_id", ids.pad), ("bos_token_id", ids.opening), ("eos_token_id", ids.end)):
            kwargs.setdefault(name, value)
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    @classmethod
    def matching(cls, lm: PreTrainedConfig, num_future_tokens: int, head_kind: str = "parallel", **kwargs):
        """As many blocks as `lm` has, heads among them: n - 1 leave the trunk for heads 2 to n, one becomes head 1.

        A linear head is a twelfth of a block; with that kind the trunk keeps all blocks.
        """
        layers = lm.num_hidden_layers - num_future_tokens * HEAD_KINDS[head_kind].is_block
        if layers < 0:
            raise ValueError(
                f"num_future_tokens={num_future_tokens}: with {lm.num_hidden_layers} layers in all, as many heads "
                "at most; take fewer heads or a deeper model."
            )
        return cls(trunk=with_layers(lm, layers), num_future_tokens=num_future_tokens, head_kind=head_kind, **kwargs)

    # What code that knows token-level models asks of a configuration.
    @property
    def vocab_size(self) -> int:
        return self.trunk.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.trunk.vocab_size = value

    @property
    def hidden_size(self) -> int:
        return self.trunk.hidden_size

    @property
    def max_position_embeddings(self) -> int:
        return self.trunk.max_position_embeddings

    @property
    def num_hidden_layers(self) -> int:
        return self.trunk.num_hidden_layers

    def check(self) -> None:
        """Raise one ValueError naming every rule that this configuration breaks."""
        check_inner_trunk(self.trunk)
        refuse("MultiTokenLM", type_faults(self) + unread_faults(self))
        faults = []
        n = self.num_future_tokens
        faults += least_faults(self, self.least)
        faults += choice_faults(self, self.choices)
        if self.head_weights is not None:
            if len(self.head_weights) != n:
                faults.append(f"head_weights has {len(self.head_weights)} entries for {n} heads")
            if min(self.head_weights, default=0) < 0:
                faults.append(f"head_weights={self.head_weights}: must not be negative")
            if not any(self.head_weights):
                faults.append(f"head_weights={self.head_weights}: no head would learn; one at least is above 0")
        if self.draft_transitions and n < 2:
            faults.append("draft_transitions: there is no drafting head; set num_future_tokens to 2 or more")
        if self.train_transitions_only and not self.draft_transitions:
            faults.append("train_transitions_only: there are none; set draft_transitions, too")
        faults += draft_target_faults(self.draft_targets, self.train_transitions_only, "train_transitions_only")
        refuse("MultiTokenLM", faults)


def draft_target_faults(targets: str, drafts_only: bool, switch: str) -> list[str]:
    """What is wrong with a configuration's `draft_targets`, where `switch` says that only drafts are trained."""
    if targets == "greedy" and not drafts_only:
        return [
            f"draft_targets={targets!r}: what the model itself writes can be learnt only while the rest of it stays "
            f"as it is; set {switch}, or draft_targets=text"
        ]
    return []
