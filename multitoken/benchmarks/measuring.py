"""What drafting brings a trained model: which candidates come true, the tree they suggest, what a step costs, how fast
texts are written. Whether they are the same texts is told by `multitoken.benchmarks.losslessness`.

B texts, L tokens, n heads, V vocabulary.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from lmbase.benchmarking.timing import PUBLISHED_SENTENCE_TOKENS, Arrivals, Generation, alternate, ratio_columns
from lmbase.files import MANIFEST, read_json, verify_folder, write_folder, write_text
from lmbase.modeling.inference import inference_method
from lmbase.modeling.trunk import position_bytes
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
    counts: Sequence[int] = (0,)  # where it is replayed: draft tokens accepted, one entry for each draft


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


def check_positions(name: str, positions: int, prompt_tokens: int, new_tokens: int) -> None:
    """Raises a ValueError if a model has too few."""
    if prompt_tokens + new_tokens > positions:
        raise ValueError(
            f"prompt_tokens={prompt_tokens}, new_tokens={new_tokens}: {name} has {positions} positions, </s> takes "
            "one, and the last token none. Lower one of the two."
        )


@dataclass
class Written(Generation):
    """Several texts written one after another or at once, and what drafts brought over all."""

    ids: list[list[int]] = field(default_factory=list)  # of each text
    statistics: SpeculationStatistics = field(default_factory=SpeculationStatistics)


def write(
    model: MultiTokenLM, prompts: Sequence[list[int]], way: Way, batch_size: int, new_tokens: int, **options
) -> Written:
    """Continue prompts of one length, greedily unless `options`, which are those of `generate`, say otherwise. New ids
    have the end mark where the model set one."""
    written, started = Written(), time.perf_counter()
    options |= dict(max_new_tokens=new_tokens, num_draft=way.num_draft, tree=way.tree)
    for start in range(0, len(prompts), batch_size):
        rows = torch.tensor(prompts[start : start + batch_size], device=model.device)
        output = model.generate(rows, torch.ones_like(rows), **options)
        found = zip(output.sequences[:, rows.shape[1] :].tolist(), output.num_new_tokens, strict=True)
        for (new, length), reason in zip(found, output.finish_reason, strict=True):
            written.ids.append(new[:length] + [model.config.eos_token_id] * (reason == "stop"))
        written.statistics.include(output.statistics)
    written.seconds, written.num_new_tokens = time.perf_counter() - started, sum(map(len, written.ids))
    return written


def time_mtp(
    model: MultiTokenLM,
    prompt: Tensor | str,
    num_new_tokens: int,
    num_draft: int | str = "auto",
    num_copied: int | None = None,
    **settings,
) -> Generation:
    """Greedy writing by drafting and verifying; end marks are disabled.

    Args:
        prompt: (1, L) ids that begin with the opening one; or a text: then text in, text out.
        num_draft, settings: of `generate`. num_copied: its prompt_lookup_num_tokens.
    """
    arrivals = Arrivals(model.tokenizer if isinstance(prompt, str) else None)
    given: dict[str, Any] = {"text": prompt} if isinstance(prompt, str) else {"input_ids": prompt}
    output = model.generate(
        **given,
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
        num_draft=num_draft,
        prompt_lookup_num_tokens=num_copied,
        streamer=arrivals,
        **settings,
    )
    cached = output.sequences.shape[1] - 1  # the last token was written, and not read
    return Generation(
        arrivals.seconds,
        arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS),
        num_new_tokens,
        # Not what this call held: with `auto` that depends on how long it happened to draft.
        cache_bytes=bytes_of_heads(model, num_draft != 1 and num_copied is None) * cached,
        num_cached_tokens=cached,
        num_cached_positions=cached,
        tokens_per_forward=output.statistics.tokens_per_forward,
        break_even=output.statistics.break_even,
    )


def bytes_of_heads(model: MultiTokenLM, drafts: bool) -> int:
    """Bytes of the keys and values of one position: what plain decoding reads, and with drafts the further heads' too,
    whether a call drafted at every position or not."""
    num_heads = len(model.heads) if drafts else model.num_read_heads
    layers = model.config.trunk.num_hidden_layers + num_heads * model.kind.is_block
    return position_bytes(model.config.trunk, model.dtype, layers)


def accepted_counts(found: SpeculationStatistics) -> list[int]:
    """Forward passes with a draft by how many draft tokens were accepted: none, one, two ..."""
    if not found.offered:
        return []
    at_least = [found.offered[0], *found.accepted, 0]
    return [a - b for a, b in pairwise(at_least)]


def expanded(accepted_counts: Sequence[int]) -> list[int]:
    """The draft tokens accepted in each of these passes."""
    return [count for count, times in enumerate(accepted_counts) for _ in range(times)]


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
    found = Candidates(model.draft_transitions, len(model.heads) - 1, min(num_ranks, model.config.vocab_size))
    for prompt, new in zip(prompts, continuations, strict=True):
        ids = torch.tensor([prompt + new], device=model.device)  # (1,L)
        first, length = len(prompt) - 1, ids.shape[1]
        places = torch.arange(length - 1, device=ids.device)[None]
        z = model.read(ids[:, :-1], places, None)  # the last token is a target only: it may have no position
        for j, states in model.run_heads(z, range(1, len(model.heads) + 1), places, None):
            if j > 1 and first + j < length:
                hidden = model.finish(states[0, first : length - j])
                before = model.get_input_embeddings()(ids[0, first + j - 1 : -1])
                found.count(j - 2, before, hidden, model.unembedding(j), ids[0, first + j :])
    return found.rates


class Candidates:
    """How often the candidates of drafting heads come true; j counts heads from 0."""

    def __init__(self, transitions: nn.ModuleList, num_heads: int, num_ranks: int):
        self.transitions, self.hits, self.counts = transitions, torch.zeros(num_heads, num_ranks), [0] * num_heads

    def count(self, j: int, before: Tensor, hidden: Tensor, table: Tensor, targets: Tensor) -> None:
        """Head j has states (N, D) after tokens with embeddings `before` (N, D), its table is (V, D); what stands in
        the text are `targets` (N,)."""
        logits = hidden @ table.T  # (N,V)
        ranked = best_candidates(self.transitions, j, before, hidden, logits, table, self.hits.shape[1])  # (N,ranks)
        self.hits[j] += (ranked == targets[:, None]).sum(0).cpu()
        self.counts[j] += len(targets)

    @property
    def rates(self) -> list[list[float]]:
        """For candidates of rank r of head j at [j][r]."""
        return [(row / max(count, 1)).tolist() for row, count in zip(self.hits, self.counts, strict=True)]


def save_tree(folder: Path, tree: DraftTree) -> None:
    """Write a tree into a model's configuration; a folder with a manifest gets a new one, which holds again.

    Raises:
        ValueError: the folder is damaged, or holds no model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is no folder with a model, so no tree can be saved in it; copy it there.")
    config = read_json(path)
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


def compare_speed(
    model: MultiTokenLM,
    prompts: Sequence[list[int]],
    ways: Sequence[Way],
    batch_size: int,
    new_tokens: int,
    num_pairs: int,
) -> dict[str, dict[str, float]]:
    """Write the same prompts in all ways in turn, A B A B, `PLAIN` among them; end marks are held back.

    Returns columns by the way's name; `break_even` is the seconds of a forward pass over the seconds of a plain one.
    """

    def timed(way: Way) -> tuple[float, float]:
        """Tokens per second, and seconds of a forward pass: reading the prompts is timed apart."""
        prompt_seconds = write(model, prompts, way, batch_size, 1, min_new_tokens=1).seconds
        written = write(model, prompts, way, batch_size, new_tokens, min_new_tokens=new_tokens)
        forward_seconds = (written.seconds - prompt_seconds) / max(written.statistics.num_forwards, 1)
        return written.tokens_per_second, forward_seconds

    found = alternate({way.name: partial(timed, way) for way in ways}, num_pairs)
    plain_speeds, plain_seconds = zip(*found[PLAIN.name], strict=True)
    columns = {}
    for name, runs in found.items():
        rates, seconds = zip(*runs, strict=True)
        columns[name] = {
            "tokens_per_second": median(rates),
            "break_even": median([a / b for a, b in zip(seconds, plain_seconds, strict=True)]),
            **ratio_columns("speed_ratio", rates, plain_speeds),
        }
    return columns
