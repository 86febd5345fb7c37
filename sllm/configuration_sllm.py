"""Configuration of the sentence-level language model: two nested configurations and how they are joined."""

import copy
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from lmbase.config import choice_faults, least_faults
from lmbase.modeling.configurations import check_keys, refuse, type_faults, unread_faults, untied_faults
from lmbase.modeling.trunk import as_config, check_inner_trunk, vector_width
from multitoken.configuration_multitoken import DRAFT_TARGETS, draft_target_faults
from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sllm.draft_heads import DRAFT_HEAD_KINDS
from sllm.next_vector import NEXT_VECTORS
from sllm.vector_memory import VECTOR_MEMORIES


class SLLMConfig(PreTrainedConfig):
    """A SentenceVAE grafted onto a decoder-only trunk (arXiv 2408.00655, section 4), or a language model that is
    its own encoder and decoder (`sllm.own_layers`).

    Args:
        autoencoder, trunk: nested configurations (or dicts of their fields). By own layers `trunk` is the whole
            language model, and of `autoencoder` only the ids and the longest sentence count.
        max_sentences: sentences of a window in training and scoring; the trunk needs one position more. By own layers
            it needs one for each token that they may have.
        num_memory_states: the decoder reads this many of the latest trunk states; 1 is the published design.
        num_memory_tokens: the decoder also attends to the encoder's states of so many tokens before its sentence; as
            many as a sentence may have cover the whole previous one.
        num_memory_vectors: in its last layer, and in every second one before that, the decoder also attends to the
            vectors of so many sentences before its own (arXiv 2512.25026, which has 40; 0: none).
        vector_memory: what it reads of them (`sllm.vector_memory`): `trained`, so that the encoder learns what later
            sentences need; `detached`, with that gradient cut; `marker`, one constant in place of all: a control.
        freeze_trunk_layers: None trains the whole trunk, k only its first and last k layers.
        freeze_autoencoder: train the trunk and the joints only.
        next_vector: what the decoder reads of a trunk state (`sllm.next_vector`): a `projection`, or a vector that a
            head draws, `energy` or `flow`, which needs an autoencoder with a Gaussian latent.
        vector_blocks: layers of such a head.
        vector_draws: its draws for each sentence of training (flow: places on the way), two or more.
        posterior_draws: what they are compared with (energy): draws of what the encoder says.
        flow_steps: midpoint steps from noise to a vector (flow).
        vector_temperature: what noise is multiplied by when text is written, 0 to 1.
        stop_weight: weight of the stop flag's loss; 1 makes the objective the exact likelihood of the text.
        num_future_tokens: heads of the sentence decoder; head i predicts the i-th next token of the sentence, and those
            after the first draft what the first then verifies (arXiv 2404.19737).
        draft_head_kind: what a drafting head is: `block`, a layer like the decoder's, with attention of its own, or
            `residual`, one linear layer on the decoder's state (arXiv 2401.10774), which costs a tenth of it.
        draft_transitions: guesses know the guess before them (`multitoken.transitions`).
        train_draft_heads_only: everything else stays as it is, and so does the likelihood.
        draft_targets: what drafting heads learn where nothing else learns: the `text`, or (`greedy`) what the model
            itself would write after each of its tokens, which is what guesses are verified against.
        end_flag: a sentence's end is a flag of its own before the vocabulary, instead of a token of it.
        told_ends: the rule that cuts tells from the text so far whether a sentence is over, so that no end is predicted
            but a text's last (`lmbase.text.told_ends`). Grafts have it where their processor's rule is `learned`.
        lower_layers: blocks of the language model that are the encoder of a graft by own layers; those between them and
            the decoder's are the trunk.
        upper_layers: blocks of the language model that are the decoder of such a graft; 0: a SentenceVAE is.
        lower_window, upper_window: tokens that each token sees in these blocks, itself among them; beside them it sees
            the opening token.
        use_trunk: false leaves the trunk out, so that tokens go from the lower blocks to the upper ones: the control
            that tells what the trunk is worth.
    """

    model_type = "sllm"
    keys_to_ignore_at_inference = ["losses", "correct", "states"]
    choices: ClassVar[dict[str, Collection[str]]] = {
        "next_vector": NEXT_VECTORS,
        "vector_memory": VECTOR_MEMORIES,
        "draft_head_kind": DRAFT_HEAD_KINDS,
        "draft_targets": DRAFT_TARGETS,
    }
    least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("max_sentences", "num_memory_states", "num_future_tokens", "lower_window", "upper_window"), 1),
        **dict.fromkeys(("num_memory_tokens", "num_memory_vectors", "lower_layers", "upper_layers", "stop_weight"), 0),
    }
    sub_configs = {"autoencoder": SentenceVAEConfig, "trunk": AutoConfig}

    def __init__(
        self,
        autoencoder: SentenceVAEConfig | dict | None = None,
        trunk: PreTrainedConfig | dict | None = None,
        max_sentences: int = 64,
        num_memory_states: int = 1,
        num_memory_tokens: int = 0,
        num_memory_vectors: int = 0,
        vector_memory: str = "trained",
        freeze_trunk_layers: int | None = None,
        freeze_autoencoder: bool = False,
        next_vector: str = "projection",
        vector_blocks: int = 4,
        vector_draws: int = 8,
        posterior_draws: int = 32,
        flow_steps: int = 8,
        vector_temperature: float = 1.0,
        stop_weight: float = 1.0,
        num_future_tokens: int = 1,
        draft_head_kind: str = "block",
        draft_transitions: bool = False,
        train_draft_heads_only: bool = False,
        draft_targets: str = "text",
        end_flag: bool = False,
        told_ends: bool = False,
        lower_layers: int = 0,
        upper_layers: int = 0,
        lower_window: int = 128,
        upper_window: int = 256,
        use_trunk: bool = True,
        **kwargs,
    ):
        check_keys(self, kwargs)
        if isinstance(autoencoder, SentenceVAEConfig):
            self.autoencoder = copy.deepcopy(autoencoder)  # the caller's stays as it is
        else:
            self.autoencoder = SentenceVAEConfig(**(autoencoder or {}))
        self.trunk = as_config(trunk)
        self.max_sentences = max_sentences
        self.num_memory_states, self.num_memory_tokens = num_memory_states, num_memory_tokens
        self.num_memory_vectors, self.vector_memory = num_memory_vectors, vector_memory
        self.freeze_trunk_layers, self.freeze_autoencoder = freeze_trunk_layers, freeze_autoencoder
        self.next_vector = next_vector
        self.vector_blocks, self.vector_draws, self.posterior_draws = vector_blocks, vector_draws, posterior_draws
        self.flow_steps, self.vector_temperature = flow_steps, vector_temperature
        self.stop_weight, self.num_future_tokens, self.draft_head_kind = stop_weight, num_future_tokens, draft_head_kind
        self.draft_transitions = draft_transitions
        self.train_draft_heads_only = train_draft_heads_only
        self.draft_targets = draft_targets
        self.end_flag, self.told_ends, self.use_trunk = end_flag, told_ends, use_trunk
        self.lower_layers, self.upper_layers = lower_layers, upper_layers
        self.lower_window, self.upper_window = lower_window, upper_window
        # The one state that predicts the sentence is read as its vector: alone it needs no attention.
        extended = num_memory_states > 1 or num_memory_tokens > 0
        self.autoencoder.memory_size = num_memory_states + num_memory_tokens if extended else 0
        self.autoencoder.num_memory_vectors = num_memory_vectors
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(self.autoencoder, name))
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    # What code that knows token-level models asks of a configuration.
    @property
    def vocab_size(self) -> int:
        return self.autoencoder.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.autoencoder.vocab_size = self.trunk.vocab_size = value

    @property
    def hidden_size(self) -> int:
        return self.autoencoder.hidden_size

    @property
    def max_sentence_tokens(self) -> int:
        return self.autoencoder.max_sentence_tokens

    @property
    def own_layers(self) -> bool:
        """Whether the language model is its own encoder and decoder."""
        return self.upper_layers > 0

    @property
    def most_sentences(self) -> int:
        """Sentences that the trunk has positions for. By own layers it counts tokens; all may be of the longest."""
        room = self.trunk.max_position_embeddings - 1  # one is the start state's
        return room // self.max_sentence_tokens if self.own_layers else room

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether the trunk has positions for sentences of so many tokens, their start state, and by own layers for a
        further sentence of the longest."""
        positions = self.trunk.max_position_embeddings
        if self.own_layers:
            return 1 + sum(lengths) + self.max_sentence_tokens <= positions
        return 1 + len(lengths) <= positions

    def latest_half(self, lengths: Sequence[int]) -> int:
        """How many of the latest sentences take at most half of the positions."""
        positions = self.trunk.max_position_embeddings
        half = positions // 2
        if not self.own_layers:
            return half
        half = min(half, positions - 1 - self.max_sentence_tokens)  # the next sentence needs room
        return sum(total <= half for total in accumulate(reversed(lengths)))

    def check(self) -> None:
        """Raise one ValueError naming every rule that this configuration breaks."""
        check_inner_trunk(self.trunk)
        refuse("SLLM", type_faults(self) + unread_faults(self) + untied_faults(self))
        faults = []
        width, trunk_width = self.autoencoder.hidden_size, vector_width(self.trunk)
        if width != trunk_width:
            faults.append(
                f"the autoencoder's vectors are {width} wide and the trunk reads {trunk_width}: "
                f"pretrain an autoencoder with hidden_size={trunk_width} for this trunk"
            )
        if self.autoencoder.vocab_size != self.trunk.vocab_size:
            faults.append(
                f"the autoencoder has {self.autoencoder.vocab_size} vocabulary rows and the trunk "
                f"{self.trunk.vocab_size}: both must use the same tokenizer"
            )
        if self.max_sentences > self.most_sentences:
            faults.append(self._window_fault())
        faults += least_faults(self, self.least)
        if self.vector_memory != "trained" and not self.num_memory_vectors:
            faults.append(f"vector_memory={self.vector_memory!r}: there is none; set num_memory_vectors to 1 or more")
        layers = self.trunk.num_hidden_layers
        if self.freeze_trunk_layers is not None and not 0 <= self.freeze_trunk_layers <= layers:
            faults.append(f"freeze_trunk_layers={self.freeze_trunk_layers}: choose 0 to {layers}")
        faults += choice_faults(self, self.choices)
        if self.draft_head_kind != "block" and self.num_future_tokens < 2:
            faults.append(
                f"draft_head_kind={self.draft_head_kind!r}: there are no drafting heads; set num_future_tokens to 2 or "
                "more"
            )
        for name in ("draft_transitions", "train_draft_heads_only"):
            if getattr(self, name) and self.num_future_tokens < 2:
                faults.append(f"{name}: there are no drafting heads; set num_future_tokens to 2 or more")
        if self.draft_targets == "greedy" and self.end_flag:
            faults.append("draft_targets='greedy': with end_flag drafting heads learn the text; leave one of them out")
        if self.next_vector in NEXT_VECTORS:
            faults += NEXT_VECTORS[self.next_vector].faults(self)
            if self.told_ends and NEXT_VECTORS[self.next_vector].draws:
                faults.append(f"told_ends: with next_vector={self.next_vector!r} ends are predicted; leave one out")
        faults += self._own_layer_faults()
        faults += draft_target_faults(self.draft_targets, self.train_draft_heads_only, "train_draft_heads_only")
        refuse("SLLM", faults)

    def _window_fault(self) -> str:
        positions = self.trunk.max_position_embeddings
        if self.own_layers:
            return (
                f"max_sentences={self.max_sentences}: choose 1 to {self.most_sentences}, sentences of "
                f"{self.max_sentence_tokens} tokens that fit into the {positions} positions of the language model; or "
                "lower max_sentence_tokens"
            )
        return (
            f"max_sentences={self.max_sentences}: choose 1 to {positions - 1}, the trunk's positions less one for the "
            "start state"
        )

    def _own_layer_faults(self) -> list[str]:
        layers = self.trunk.num_hidden_layers
        faults = []
        if self.lower_layers and not self.upper_layers:
            faults.append(f"lower_layers={self.lower_layers}: a graft by own layers needs upper_layers of 1 or more")
        elif self.own_layers and self.lower_layers + self.upper_layers >= layers:
            faults.append(
                f"lower_layers={self.lower_layers} and upper_layers={self.upper_layers}: the language model has "
                f"{layers} layers, and at least one between them is the trunk; choose fewer"
            )
        for name in ("lower_window", "upper_window"):
            if getattr(self, name) < self.max_sentence_tokens and self.own_layers:
                faults.append(
                    f"{name}={getattr(self, name)}: shorter than a sentence, which may have {self.max_sentence_tokens} "
                    f"tokens; choose at least as many, or lower max_sentence_tokens"
                )
        if not self.own_layers:
            return faults if self.use_trunk else [*faults, "use_trunk=False: for grafts by own layers only"]
        if self.num_memory_states > 1 or self.num_memory_tokens or self.num_memory_vectors:
            names = "num_memory_states, num_memory_tokens, num_memory_vectors"
            faults.append(f"{names}: own layers see their windows of tokens instead; leave them out")
        if self.freeze_autoencoder:
            faults.append("freeze_autoencoder: a graft by own layers has no autoencoder")
        if self.num_future_tokens > 1 and vector_width(self.trunk) != self.trunk.hidden_size:
            faults.append(
                f"num_future_tokens={self.num_future_tokens}: this model's vocabulary table is narrower than its "
                "layers, which drafting heads of a graft by own layers do not know; leave them out"
            )
        if self.num_future_tokens > 1 and self.draft_head_kind == "block":
            faults.append("draft_head_kind='block': drafting heads of a graft by own layers are 'residual' ones")
        return faults
