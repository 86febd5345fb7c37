"""Write down what a teacher says of every token of prepared data, once, for students that learn its probabilities.

    sllm distil-cache --lm runs/tuned --data runs/data --output_dir runs/taught
    sllm train-lm lm_small --data runs/data --teacher runs/taught
    sllm distil-cache --lm runs/tuned --data runs/data --train_tokens 3000000 --output_dir runs/taught_in_part

For each token of the train split it keeps the teacher's `top` most probable tokens and their log-probabilities (fp16);
the rest of the vocabulary counts as one bucket. The teacher reads each text in windows of `context` positions that
overlap by half, so that a token has half a window before it, or all of its text. 64 tokens take 256 bytes on the disk
(384 where the vocabulary has more than 65,536 ids). An interrupted run goes on where it stopped when the same command
is given again. Output: one row of figures per token in .npy files, manifest.json and teacher.json, with hashes of
teacher and data; what it cost (training.json) counts for every student.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt

from lmbase.config import option, run, single_process
from lmbase.modeling.devices import choose_device
from lmbase.modeling.distillation import weights_hash
from lmbase.modeling.token_lm import TokenLM
from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import tokenizer_hash, vocabulary_size
from lmbase.training.cost import write_training
from sllm_data.prepared import PreparedData
from sllm_data.teacher_cache import TeacherCache, stream_hash
from sllm_data.write_teacher_cache import reading_windows, write_teacher_cache
from sllm_recipes.teaching import ask_model, load_teacher
from sllm_recipes.training_run import SHORT_CONTEXT, VERIFY

QUICK_TOKENS = 10_000


@dataclass
class Config:
    lm: str | None = option(None, "the teacher, a token-level model: hub id, folder, run or GGUF file")
    data: str | None = option(None, "a folder written by prepare, with the teacher's tokenizer")
    output_dir: str = option(
        "runs/distil-cache", "where the rows go; the same command again continues it", may_differ=True
    )
    context: PositiveInt = option(512, "positions of a window that the teacher reads; they overlap by half")
    top: PositiveInt = option(64, "tokens kept of each distribution")
    train_tokens: PositiveInt | None = option(None, "only the first so many tokens of the train split; default: all")
    batch_size: PositiveInt = option(8, "windows read at once", may_differ=True)
    device: str = option("auto", "cpu, cuda, mps; auto: the accelerator if there is one", may_differ=True)
    dtype: Literal["fp32", "bf16"] = option("fp32", "bf16: the teacher computes in bfloat16 (autocast)")
    seed: int = option(0, "has no effect: nothing here is random", may_differ=True)
    verify: bool = option(True, VERIFY, may_differ=True)
    quick: bool = option(False, f"only the first {QUICK_TOKENS:,} tokens, to try a command out")


@single_process
def main(config: Config) -> TeacherCache:
    if not config.lm or not config.data:
        raise ValueError("Nothing to ask: give the teacher (--lm) and data written by prepare (--data).")
    if config.context < 2:
        raise ValueError(f"context={config.context}: {SHORT_CONTEXT}")
    device = torch.device(choose_device(config.device))
    data = PreparedData.load(config.data, verify=config.verify)
    lm = load_teacher(config.lm, data, config.context, "lm")
    split, tokenizer = data.split("train"), data.processor.tokenizer
    num_ids = vocabulary_size(tokenizer)
    top = min(config.top, num_ids)
    num_tokens = min([split.num_tokens, *filter(None, [config.train_tokens, QUICK_TOKENS * config.quick])])
    configuration = {
        "teacher": config.lm,
        "teacher_hash": weights_hash(lm),
        "tokenizer": tokenizer_hash(tokenizer),
        "data": data.name,
        "data_hash": data.hash,
        "tokens": num_tokens,
        "tokens_hash": stream_hash(split, num_tokens),
        "top": top,
        "num_ids": num_ids,
        "context": config.context,
        "dtype": config.dtype,
    }
    teacher = ask_model(lm.to(device), data, config.context)
    if teacher.keep is not None and teacher.keep.processor is not None:  # where sentences end decides what it says
        configuration["sentences"] = data.processor.fingerprint

    def ask(rows: list[np.ndarray], firsts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        input_ids, attention_mask = pad_tokens(rows, data.processor.pad_token_id)
        asked = torch.nn.functional.pad(attention_mask, (0, 1))  # the end of a window is not asked for
        asked &= torch.arange(asked.shape[1]) >= torch.tensor(firsts)[:, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
            ids, log_probs = teacher.most_probable(
                input_ids.to(device), attention_mask.to(device), asked.to(device), top
            )
        return ids.cpu().numpy(), log_probs.cpu().numpy()

    def write_cost(seconds: float) -> None:
        read = sum(window.stop - window.start for window in reading_windows(split, config.context - 1, num_tokens))
        flops = TokenLM(lm).flops(read, config.context)
        write_training(config.output_dir, 0, seconds, flops, [config.lm])

    cache = write_teacher_cache(
        Path(config.output_dir), split, configuration, ask, batch_size=config.batch_size, write_cost=write_cost
    )
    print(f"{config.output_dir}: what {config.lm} says of {cache.num_tokens:,} tokens, {cache.top} ids each.")
    return cache


if __name__ == "__main__":
    run(Config, main)
