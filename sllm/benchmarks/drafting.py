"""Drafts as a trained model has them accepted: counted on a trained SLLM, and replayed in the subset `replay`."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lmbase.benchmarking.timing import Generation, alternate, compared_settings, known_median, time_lm
from lmbase.config import option
from lmbase.modeling.devices import DTYPES, moved
from lmbase.modeling.inference import inference_method
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.measuring import NUM_RANKS, PLAIN, Candidates, Way, accepted_counts, expanded, time_mtp
from multitoken.benchmarks.replaying import FIRST_WORD, Drafts, new_replayed, read_acceptance
from multitoken.draft_tree import DraftTree
from sllm.benchmarks.keys import CompiledKeys, Part, SizeKeys, WritingKeys, measured, speed_row
from sllm.sllm import SLLM
from sllm.unpredicted_ends import without_end

TREES = (4, 8)  # draft tokens of the trees that are tried
NUM_PROMPTS, PROMPT_CHARACTERS = 16, 1000  # of the texts after which a trained SLLM's drafts are counted


def measured_acceptance(model: SLLM, texts: Sequence[str], num_new_tokens: int) -> list[Way]:
    """Accepted draft tokens of a trained model that writes greedily after the openings of the first texts: with chains
    of 1, 2 .. tokens, and with the trees of 4 and 8 tokens that accept most after every other text; the rest say how
    many they accept.

    Raises:
        ValueError: fewer than two texts.
    """
    prompts = [text[:PROMPT_CHARACTERS] for text in texts[:NUM_PROMPTS]]
    if len(prompts) < 2:
        raise ValueError(f"{len(prompts)} texts to count accepted draft tokens on: at least two are needed.")
    fixed: dict = dict(max_new_tokens=num_new_tokens, min_new_tokens=num_new_tokens)
    written = [(model.generate(text=text, **fixed).texts or [""])[0] for text in prompts]
    rates = candidate_rates(model, [text + new for text, new in zip(prompts, written, strict=True)][::2])
    trees = {num_drafts: DraftTree.from_acceptance(rates, num_drafts) for num_drafts in TREES}
    tried = [Way(f"{k} heads", k) for k in range(2, model.config.num_future_tokens + 1)]
    tried += [Way(f"tree of {num_drafts}", tree.depth + 1, tree) for num_drafts, tree in trees.items()]
    ways = []
    for way in tried:
        counts: list[int] = []
        for text in prompts[1::2]:
            output = model.generate(text=text, num_draft=way.num_draft, tree=way.tree, **fixed)
            assert output.statistics is not None
            counts += expanded(accepted_counts(output.statistics))
        random.Random(way.name).shuffle(counts)
        ways.append(Way(way.name, way.num_draft, way.tree, counts))
    return ways


@inference_method
def candidate_rates(model: SLLM, texts: Sequence[str]) -> list[list[float]]:
    """How often a token of these texts is candidate of rank r of drafting head j, at [j - 2][r]."""
    found = Candidates(model.draft_transitions, len(model.draft_heads), min(NUM_RANKS, model.config.vocab_size))
    table = model.get_input_embeddings().weight
    for text in texts:
        ids = model.processor.encode(text).sentences()[-model.config.max_sentences :]
        batch = pad_sentences([ids], model.config.pad_token_id).to(model.device)
        sentences = model.read(**vars(batch))
        states = model.trunk_states(sentences, batch.sentence_mask)
        memory = model.memory_of_heads(sentences, states)
        endless = without_end(model.config, batch.sentence_mask, None)
        for decoded in model.decode(sentences, states, endless=endless):
            for j, (hidden, targets, before) in enumerate(model.look_ahead(decoded, sentences, states, memory)):
                found.count(j, table[before], hidden, table, targets)
    return found.rates


@dataclass
class Replayed(SizeKeys, WritingKeys, CompiledKeys):
    """Drafting at other sizes, as often accepted as a trained model's."""

    acceptance_from: str | None = option(None, "of the subset replay: what `sllm drafting` wrote")
    ways: list[str] | None = option(None, "of the subset replay: only these ways of drafting, as its table names them")

    def measure(self) -> Iterator[Part]:
        assert self.acceptance_from is not None
        drafts = read_acceptance(self.acceptance_from, self.seed)
        known = [way.name for way in drafts.ways]
        if unknown := sorted(set(self.ways or []) - set(known)):
            raise ValueError(f"ways={unknown}: {drafts.model} was measured with {', '.join(known)}.")
        for size in self.size:
            yield functools.partial(measured, functools.partial(self.rows, size, drafts))
            torch.compiler.reset()

    def rows(self, size: str, drafts: Drafts) -> list[Row]:
        """Greedy writing of one text: the same model by Transformers' `generate`, plain decoding, every way of
        drafting, and `auto` where no draft token ever comes true, all in turn."""
        model = new_replayed(size, drafts, self.vocab_size, self.seed)
        moved(model, self.device, DTYPES[self.dtype]).eval()
        words = torch.randint(FIRST_WORD, model.config.vocab_size, (self.prompt_tokens[0],))
        prompt = torch.tensor([[model.ids.opening, *words.tolist()]], device=model.device)  # (1,L)
        lm = model.to_lm()
        chosen = [way for way in drafts.ways if self.ways is None or way.name in self.ways]

        def write(way: Way, settings: dict) -> Generation:
            model.replay(way.counts)
            return time_mtp(model, prompt, self.new_tokens, way.num_draft, tree=way.tree, **settings)

        runners: dict[str, Callable[[], Generation]] = {}
        for kind, settings in compared_settings(self.compiled, model.device.type).items():
            runners["Transformers" + kind] = functools.partial(time_lm, lm, prompt, self.new_tokens, **settings)
            for way in (PLAIN, *chosen, Way("auto, nothing accepted", "auto")):
                runners[way.name + kind] = functools.partial(write, way, settings)
        found = alternate(runners, self.rounds)
        protocol = f"replay {self.prompt_tokens[0]}+{self.new_tokens}, acceptance of {drafts.model}"
        rows = []
        for name, runs in found.items():
            common = self.row("", protocol, {"way": name})
            common.kv_bytes_per_token = known_median(run.cache_bytes_per_token for run in runs)
            rows.append(speed_row(found, name, common, speed_ratio="Transformers", plain_ratio=PLAIN.name))
            rows[-1].model = size
        return rows

    def __post_init__(self) -> None:
        if "replay" in self.subset and self.acceptance_from is None:
            raise ValueError(
                "The subset `replay` needs --acceptance_from: what `sllm drafting` wrote for a trained model."
            )
