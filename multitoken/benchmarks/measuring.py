"""What drafting brings a trained model: which candidates come true, the tree they suggest, what a step costs, how fast
texts are written. Whether they are the same texts is told by `multitoken.benchmarks.losslessness`.

B texts, L tokens, n heads, V vocabulary.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from lmbase.benchmarking.timing import Generation, alternate, median, ratio_columns, speeds
from lmbase.files import MANIFEST, verify_folder, write_folder, write_text
from lmbase.modeling.inference import inference_method
from lmbase.modeling.trunk import key_value_shape
from lmbase.text.tokenizers import encode_text
from multitoken.draft_tree import DraftTree
from multitoken.multi_token_lm import MultiTokenLM
from multitoken.speculation import SpeculationStatistics
from multitoken.transitions import best_candidates

NUM_RANKS = 8  # candidates of a head that a tree may name


@dataclass(frozen=True)
class Way:
    """A way of writing: how many heads draft, and which of their candidates (default: the first of each)."""

    name: str
    num_draft: int | str
    tree: DraftTree | None = None


PLAIN = Way("plain", 1)


def ways_of(num_future_tokens: int, tree: DraftTree | None) -> list[Way]:
    """Plain decoding, chains of 2 to n heads and the tree; `auto` with the longest chain and with the tree."""
    chains = [Way(f"{k} heads", k) for k in range(2, num_future_tokens + 1)]
    # said outright, since a model's configuration may hold a tree that was measured earlier
    auto = Way("auto", "auto", DraftTree.chain(num_future_tokens - 1))
    if tree is None or not tree.depth:
        return [PLAIN, *chains, auto]
    return [PLAIN, *chains, Way("tree", tree.depth + 1, tree), auto, Way("auto tree", "auto", tree)]


# -- prompts and what is written after them ---------------------------------------------------------------------------


def spread_prompts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], num_prompts: int, prompt_tokens: int, bos_token_id: int
) -> list[list[int]]:
    """Prompts of one length, each an opening </s> and `prompt_tokens` tokens, evenly spread over texts and within them.

    Raises:
        ValueError: no text has so many tokens.
    """
    documents = [ids for text in texts if len(ids := encode_text(tokenizer, text)) >= prompt_tokens]
    if not documents:
        raise ValueError(
            f"prompt_tokens={prompt_tokens}: no text of {len(texts)} is that long. Lower it, or give longer ones."
        )
    number = [i * len(documents) // num_prompts for i in range(num_prompts)]  # of each prompt's text
    prompts = []
    for i, document in enumerate(number):
        ids, shared = documents[document], number.count(document)
        start = (i - number.index(document)) * (len(ids) - prompt_tokens) // shared
        prompts.append([bos_token_id, *ids[start : start + prompt_tokens]])
    return prompts


@dataclass
class Written:
    """New ids of each prompt, with the end mark where the model set one, and what drafting brought over all."""

    ids: list[list[int]]
    statistics: SpeculationStatistics


def write(
    model: MultiTokenLM, prompts: Sequence[list[int]], way: Way, batch_size: int, new_tokens: int, **options
) -> Written:
    """Continue prompts of one length, greedily unless `options`, which are those of `generate`, say otherwise."""
    ids: list[list[int]] = []
    total = SpeculationStatistics()
    for start in range(0, len(prompts), batch_size):
        rows = torch.tensor(prompts[start : start + batch_size], device=model.device)
        output = model.generate(
            rows,
            torch.ones_like(rows),
            max_new_tokens=new_tokens,
            num_draft=way.num_draft,
            tree=way.tree,
            **options,
        )
        found = zip(output.sequences[:, rows.shape[1] :].tolist(), output.num_new_tokens, strict=True)
        for (new, length), reason in zip(found, output.finish_reason, strict=True):
            ids.append(new[:length] + [model.config.eos_token_id] * (reason == "stop"))
        total.include(output.statistics)
    return Written(ids, total)


def position_bytes(model: MultiTokenLM, drafts: bool) -> int:
    """Bytes of the keys and values of one position: what plain decoding reads, and with drafts the further heads' too,
    whether a call drafted at every position or not."""
    heads, width = key_value_shape(model.config.trunk)
    num_heads = len(model.heads) if drafts else model.num_read_heads
    layers = model.config.trunk.num_hidden_layers + num_heads * model.kind.is_block
    return 2 * layers * heads * width * model.get_input_embeddings().weight.element_size()


def accepted_counts(found: SpeculationStatistics) -> list[int]:
    """Forward passes with a draft by how many draft tokens were accepted: none, one, two ..."""
    if not found.offered:
        return []
    at_least = [found.offered[0], *found.accepted, 0]
    return [a - b for a, b in pairwise(at_least)]


# -- candidates and trees ----------------------------------------------------------------------------------------------


@inference_method
def candidate_rates(
    model: MultiTokenLM,
    prompts: Sequence[list[int]],
    continuations: Sequence[list[int]],
    num_ranks: int = NUM_RANKS,
) -> list[list[float]]:
    """How often a token of the continuation is candidate of rank r of head j, at [j - 2][r], for heads 2 to n.

    The continuations are the model's own, so these are the tokens that verifying would ask for. All heads read each
    text once; head j at position t drafts token t + j, from the prompt's last position on.
    """
    n = len(model.heads)
    num_ranks = min(num_ranks, model.config.vocab_size)
    hits, counts = torch.zeros(n - 1, num_ranks), [0] * (n - 1)
    for prompt, new in zip(prompts, continuations, strict=True):
        ids = torch.tensor([prompt + new], device=model.device)  # (1,L)
        first, length = len(prompt) - 1, ids.shape[1]
        places = torch.arange(length - 1, device=ids.device)[None]
        z = model.read(ids[:, :-1], places, None)  # the last token is a target only: it may have no position
        for j, states in model.run_heads(z, range(1, n + 1), places, None):
            targets = ids[0, first + j :]
            if j == 1 or not len(targets):
                continue
            hidden, table = model.finish(states[0, first : length - j]), model.unembedding(j)
            before = model.get_input_embeddings()(ids[0, first + j - 1 : -1])
            ranked = best_candidates(
                model.draft_transitions, j - 2, before, hidden, hidden @ table.T, table, num_ranks
            )  # (targets,ranks)
            hits[j - 2] += (ranked == targets[:, None]).sum(0).cpu()
            counts[j - 2] += len(targets)
    return [(row / max(count, 1)).tolist() for row, count in zip(hits, counts, strict=True)]


def save_tree(folder: Path, tree: DraftTree) -> None:
    """Write a tree into a model's configuration; a folder with a manifest gets a new one, which holds again.

    Raises:
        ValueError: the folder is damaged, or holds no model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is no folder with a model, so no tree can be saved in it; copy it there.")
    config = json.loads(path.read_text(encoding="utf-8"))
    config["draft_tree"] = [list(ranks) for ranks in tree.nodes[1:]]
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if not (folder / MANIFEST).is_file():
        write_text(path, text)
        return
    verify_folder(folder)  # a new manifest must not vouch for a damaged file

    def fill(beside: Path) -> None:
        shutil.copytree(folder, beside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        (beside / path.name).write_text(text, encoding="utf-8")

    write_folder(folder, fill)


# -- speed -------------------------------------------------------------------------------------------------------------


@dataclass
class TimedWriting(Generation):
    """Several prompts written in one go, with the part that a step costs."""

    num_forwards: int = 0  # of a text's newest tokens, as SpeculationStatistics counts them
    prompt_seconds: float = 0.0  # for reading prompts, timed apart

    @property
    def forward_seconds(self) -> float:
        return (self.seconds - self.prompt_seconds) / max(self.num_forwards, 1)


@dataclass
class WaySpeed:
    """Wall clock of a way, and how it compares with plain decoding round by round."""

    tokens_per_second: float
    columns: dict[str, float]  # speed_ratio with its lowest and highest
    break_even: float  # seconds of a forward pass over seconds of a plain one


def compare_speed(
    model: MultiTokenLM,
    prompts: Sequence[list[int]],
    ways: Sequence[Way],
    batch_size: int,
    new_tokens: int,
    num_pairs: int,
) -> dict[str, WaySpeed]:
    """Write the same prompts in all ways in turn, A B A B, `PLAIN` among them; end marks are held back."""
    assert PLAIN in ways
    runners: dict[str, Callable[[], TimedWriting]] = {
        way.name: partial(_time_writing, model, prompts, way, batch_size, new_tokens) for way in ways
    }
    found = alternate(runners, num_pairs)
    plain = found[PLAIN.name]
    return {
        name: WaySpeed(
            median(speeds(runs)),
            ratio_columns("speed_ratio", speeds(runs), speeds(plain)),
            median([a.forward_seconds / b.forward_seconds for a, b in zip(runs, plain, strict=True)]),
        )
        for name, runs in found.items()
    }


def _time_writing(
    model: MultiTokenLM, prompts: Sequence[list[int]], way: Way, batch_size: int, new_tokens: int
) -> TimedWriting:
    started = time.perf_counter()
    write(model, prompts, way, batch_size, 1, min_new_tokens=1)
    prompt_seconds = time.perf_counter() - started
    started = time.perf_counter()
    written = write(model, prompts, way, batch_size, new_tokens, min_new_tokens=new_tokens)
    seconds = time.perf_counter() - started
    tokens = sum(map(len, written.ids))
    return TimedWriting(
        seconds, 0.0, tokens, 0, 1, num_forwards=written.statistics.num_forwards, prompt_seconds=prompt_seconds
    )
