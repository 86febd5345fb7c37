"""The configuration keys that every training recipe has."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lmbase.config import Decay, Seed, option


@dataclass
class TrainingConfig:
    """The keys that every training recipe has; a recipe's own configuration inherits them."""

    output_dir: str = option("runs/training", "the run's folder; the same command again continues it", may_differ=True)
    resume: Literal["auto", "restart"] = option(
        "auto",
        "auto: continue from the newest whole checkpoint; restart: begin anew, the old run goes at the first save",
        may_differ=True,
    )
    seed: Seed = option(0, "seed of the weights, the order of the data and dropout")
    device: str = option("auto", "cpu, cuda, mps; auto: the accelerator if there is one", may_differ=True)
    dtype: Literal["fp32", "bf16"] = option("fp32", "bf16: computes in bfloat16 (autocast), weights stay in float32")
    batch_size: PositiveInt = option(32, "items per optimizer step, over all processes and micro-batches")
    micro_batch_size: PositiveInt | None = option(
        None, "items per forward pass of one process; smaller needs less memory; null: all at once", may_differ=True
    )
    max_steps: PositiveInt = option(1000, "optimizer steps")
    learning_rate: PositiveFloat = option(3e-4, "the highest learning rate")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = option(
        0.1, "the last learning rate as a share of the highest"
    )
    warmup_steps: NonNegativeInt = option(100, "steps over which the learning rate grows from 0")
    schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine", "the course of the learning rate after the warm-up"
    )
    weight_decay: NonNegativeFloat = option(0.1, "AdamW's decay, on matrices only")
    betas: tuple[Decay, Decay] = option((0.9, 0.95), "AdamW's averaging constants")
    grad_clip: NonNegativeFloat = option(1.0, "the highest gradient norm; 0: no limit")
    ema_decay: Decay = option(0.0, "keep an average of the weights, evaluate and save that; 0: off (0.999 is usual)")
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, slower", may_differ=True
    )
    compile: bool = option(False, "compile the model with torch.compile", may_differ=True)
    strategy: Literal["ddp", "fsdp"] = option(
        "ddp",
        "with several processes: ddp keeps a whole model in each, fsdp shares weights and optimizer out",
        may_differ=True,
    )
    quick: bool = option(False, "20 steps at most, to try a command out")
    log_every: PositiveInt = option(10, "steps between lines of log.jsonl", may_differ=True)
    eval_every: NonNegativeInt = option(0, "steps between evaluations; 0: at the end only", may_differ=True)
    save_every: NonNegativeInt = option(500, "steps between checkpoints; 0: at the end only", may_differ=True)
    keep_checkpoints: PositiveInt = option(2, "how many checkpoints are kept", may_differ=True)
    tracker: Literal["none", "tensorboard", "wandb"] = option(
        "none", "where the log goes besides log.jsonl", may_differ=True
    )
