"""Configuration of the sentence autoencoder."""

from typing import ClassVar

from transformers import PreTrainedConfig

from lmbase.config import choice_faults, least_faults
from lmbase.modeling.configurations import check_keys, refuse, type_faults, unread_faults, untied_faults
from sentencevae.latents import LATENTS

POOLINGS = ("sum", "learned")


class SentenceVAEConfig(PreTrainedConfig):
    """Sizes and choices of a SentenceVAE (arXiv 2408.00655, section 3).

    Args:
        vocab_size: rows of the one vocabulary table.
        hidden_size: width of a sentence vector; a trunk's `word_embed_proj_dim` if it is to be grafted.
        ffn_dim: width of the feed-forward layers; None takes 4 * hidden_size (published: 2 * hidden_size).
        num_encoder_layers: 1 to 4.
        num_decoder_layers: 1 to 4.
        num_attention_heads: of every layer.
        max_sentence_tokens: tokens of a sentence at most, the end mark not counted.
        pooling: `sum` adds up the token states (published); `learned` first multiplies each by a learned vector of its
            position, so that the order of words survives the sum, and the decoder reads it back the same way.
        latent: `deterministic` (published) or `gaussian` (mean and variance, KL with free bits).
        kl_weight: weight of the KL sum (gaussian).
        free_bits: nats per latent dimension that cost nothing (gaussian).
        latent_dropout: share of training sentences whose vector is withheld, so that the decoder also learns to write
            without one: what it needs from a language model's trunk is a hint, not a copy.
        focal_gamma: 0 trains on cross-entropy, 2 on the published focal loss.
        dropout: probability, in training.
        memory_size: the decoder also attends to a memory of so many vectors (set by an SLLM; 0: none).
        num_memory_vectors: in its last layer, and in every second one before that, to so many more (likewise).
    """

    model_type = "sentence_vae"
    keys_to_ignore_at_inference = ["losses", "correct"]
    choices = {"pooling": POOLINGS, "latent": LATENTS}
    least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "num_attention_heads", "max_sentence_tokens"), 1),
        **dict.fromkeys(("focal_gamma", "free_bits", "kl_weight", "latent_dropout", "dropout"), 0),
    }

    def __init__(
        self,
        vocab_size: int = 50272,
        hidden_size: int = 768,
        ffn_dim: int | None = None,
        num_encoder_layers: int = 1,
        num_decoder_layers: int = 1,
        num_attention_heads: int = 12,
        max_sentence_tokens: int = 64,
        pooling: str = "learned",
        latent: str = "deterministic",
        kl_weight: float = 1.0,
        free_bits: float = 0.05,
        latent_dropout: float = 0.0,
        focal_gamma: float = 0.0,
        memory_size: int = 0,
        num_memory_vectors: int = 0,
        activation_function: str = "relu",
        dropout: float = 0.0,
        init_std: float = 0.02,
        pad_token_id: int = 1,
        bos_token_id: int = 2,
        eos_token_id: int = 2,
        **kwargs,
    ):
        check_keys(self, kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.ffn_dim = 4 * hidden_size if ffn_dim is None else ffn_dim
        self.num_encoder_layers = num_encoder_layers
        self.num_decoder_layers = num_decoder_layers
        self.num_attention_heads = num_attention_heads
        self.max_sentence_tokens = max_sentence_tokens
        self.pooling = pooling
        self.latent = latent
        self.kl_weight = kl_weight
        self.free_bits = free_bits
        self.latent_dropout = latent_dropout
        self.focal_gamma = focal_gamma
        self.memory_size = memory_size
        self.num_memory_vectors = num_memory_vectors
        self.activation_function = activation_function
        self.dropout = dropout
        self.init_std = init_std
        kwargs.setdefault("tie_word_embeddings", True)
        kwargs |= dict(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id)
        super().__init__(**kwargs)

    def memory_of_layer(self, number: int) -> int:
        """How many places of the memory a layer of the decoder reads. Where there are sentence vectors, so is the one
        trunk state that a memory of `memory_size` 0 leaves out: the first sentence of a text has no vector to read."""
        reads_vectors = self.num_memory_vectors > 0 and (self.num_decoder_layers - number) % 2 == 1
        return max(self.memory_size, 1) + self.num_memory_vectors if reads_vectors else self.memory_size

    @property
    def last_memory(self) -> int:
        """That of the last layer, which has the most."""
        return self.memory_of_layer(self.num_decoder_layers - 1)

    def check(self) -> None:
        """Raise one ValueError naming every rule that this configuration breaks."""
        refuse("SentenceVAE", type_faults(self) + unread_faults(self) + untied_faults(self))
        faults = []
        for name in ("num_encoder_layers", "num_decoder_layers"):
            if getattr(self, name) > 4:
                faults.append(f"{name}={getattr(self, name)}: choose 1 to 4")
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            faults.append(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}"
            )
        faults += choice_faults(self, self.choices)
        faults += least_faults(self, self.least)
        if self.latent_dropout >= 1:
            faults.append(f"latent_dropout={self.latent_dropout}: choose 0 to less than 1")
        refuse("SentenceVAE", faults)
