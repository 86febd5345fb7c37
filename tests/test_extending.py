"""The examples of docs/extending.md: their code runs as it stands there, and what it defines does its work."""

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import corpus_of, documents_of
from tiny import WIDTH, make_mtp, make_processor, make_sllm, make_vae, randomise
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmbase.modeling.trunk import FAMILIES, new_config, random_config
from lmbase.text import is_open, segment
from lmbase.text.segmentation import SEGMENTERS
from multitoken import MultiTokenLM
from multitoken.heads import HEAD_KINDS
from sentencevae.latents import LATENTS
from sllm import SLLM
from sllm.draft_heads import DRAFT_HEAD_KINDS
from sllm.next_vector import NEXT_VECTORS
from sllm.vector_memory import VECTOR_MEMORIES
from sllm_data.corpora import open_corpus
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData
from sllm_data.readers import READERS

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
REGISTRIES: tuple[dict[str, Any], ...] = (
    SEGMENTERS,
    READERS,
    FAMILIES,
    HEAD_KINDS,
    DRAFT_HEAD_KINDS,
    NEXT_VECTORS,
    VECTOR_MEMORIES,
    LATENTS,
)
IDS = torch.tensor([[2, 10, 11, 12, 13]])


def block_of(section: str, language: str = "python") -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return block


@pytest.fixture(scope="module", autouse=True)
def extended() -> Iterator[None]:
    """Every example is registered, also where it has become permanent; afterwards the registries are what they were."""
    before = [dict(registry) for registry in REGISTRIES]
    for name in re.findall(r'^[A-Z_]+\["(.+)"\] = ', DOCUMENT, re.MULTILINE):
        for registry in REGISTRIES:
            registry.pop(name, None)
    sizes = [len(registry) for registry in REGISTRIES]
    for section, text in SECTIONS.items():
        if "```python" in text:
            exec(compile(block_of(section), f"docs/extending.md, {section}", "exec"), {"__name__": "example"})
    added = [len(registry) - size for registry, size in zip(REGISTRIES, sizes, strict=True)]
    yield
    for registry, old in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(old)
    assert added == [1] * len(REGISTRIES)


@given(st.text(st.sampled_from("ab. \n\r\t\u2028"), max_size=40))
def test_a_segmenter_loses_nothing(text):
    pieces = segment(text, "paragraph")
    assert "".join(pieces) == text
    assert all(pieces)
    assert not any(piece[-1].isspace() for piece in pieces[:-1])


def test_a_segmenter_cuts_in_every_place_where_text_is_read(tmp_path):
    text = "One, two.\nThree.\n \nFour!\n"
    assert segment(text, "paragraph") == ["One, two.\nThree.", "\n \nFour!", "\n"]
    assert is_open("Four!", "paragraph")
    processor = make_processor("paragraph", cap=32)
    assert processor.encode(text).sentence_bytes == [16, 8, 1]
    data = prepare(corpus_of([text, "Five."]), processor, tmp_path, progress=False)
    assert list(documents_of(data, "train")) == [text, "Five."]
    assert data.processor.rule == "paragraph"
    assert data.split("train").num_sentences == 4


@pytest.mark.long
def test_the_command_knows_what_its_launcher_imports(tmp_path):
    (launcher,) = re.findall(r"```python\n(.*?)```", DOCUMENT.partition("\n## ")[0], re.DOTALL)
    (tmp_path / "my_sllm.py").write_text(launcher, encoding="utf-8")
    (tmp_path / "my_rules.py").write_text(block_of("A segmenter"), encoding="utf-8")
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "One, {i}.\\n\\nTwo."}}\n' for i in range(40)))

    def sllm(*words: str) -> str:
        command = [sys.executable, "my_sllm.py", "prepare", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert ", paragraph, " in " ".join(sllm("--help").split())
    source = ["--data", "train.jsonl", "--tokenizer", "bytes", "--num_workers", "2", "--output_dir", "data"]
    sllm("--rule", "paragraph", *source)
    assert PreparedData.load(tmp_path / "data").split("train").num_sentences == 80


def test_a_reader_is_found_by_its_suffix(tmp_path):
    (tmp_path / "valid.fortune").write_text("Three.\n", encoding="utf-8")
    (tmp_path / "train.fortune.gz").write_bytes(gzip.compress("One.\r\n%\r\nÜ 😀\n%\n".encode()))
    corpus = open_corpus(str(tmp_path))
    names = ["train.fortune.gz:1", "train.fortune.gz:2", "train.fortune.gz:3"]
    assert [(d.name, d.text) for d in corpus.read("train")] == list(zip(names, ["One.\r\n", "Ü 😀\n", ""], strict=True))
    assert [d.text for d in corpus.read("valid")] == ["Three.\n"]
    data = prepare(corpus, make_processor(), tmp_path / "prepared", progress=False)
    assert list(documents_of(data, "train")) == ["One.\r\n", "Ü 😀\n"]


def test_a_bad_byte_costs_a_reader_its_text_only(tmp_path):
    (tmp_path / "train.fortune").write_bytes(b"\xef\xbb\xbfOne.\n%\nbad \xff\n%\nTwo.\n")
    corpus = open_corpus(str(tmp_path))
    assert [d.text for d in corpus.read("train")] == ["One.\n", "Two.\n"]
    assert [name.partition(" ")[0] for name in corpus.skipped["train"].names["invalid UTF-8"]] == ["train.fortune:2"]


def trained(model, batch, steps=2):
    """The model after some steps; every one lowers its loss on the batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(steps + 1):
        output = model(**batch)
        losses.append(output.loss.item())
        output.loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert losses == sorted(losses, reverse=True)
    return model.eval()


def olmo2(num_hidden_layers: int) -> PreTrainedModel:
    size = dict(hidden_size=WIDTH, num_hidden_layers=num_hidden_layers, num_attention_heads=2, vocab_size=260)
    lm = AutoModelForCausalLM.from_config(new_config("olmo2", feed_forward=32, max_position_embeddings=32, **size))
    randomise(lm)
    return lm.eval()


@torch.no_grad()
def test_a_trunk_family_reads_sentences(tmp_path):
    assert random_config("random:olmo2-tiny", vocab_size=300, max_positions=64).model_type == "olmo2"
    model = SLLM.graft(make_vae(), olmo2(2), max_sentences=16).eval()
    torch.nn.init.eye_(model.sentence_out.weight)
    model.stop_head.bias.fill_(-100.0)
    batch = vars(model.processor(["One, two. Three? Yes, five: six.", "Why"]))
    with torch.enable_grad():
        trained(model, batch)
    model.save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path).eval()
    states = again(**batch).states
    torch.testing.assert_close(states, model(**batch).states)
    state = again.prefill(*(x[:1, :2] for x in batch.values()))
    again.step(batch["input_ids"][:1, 2], batch["attention_mask"][:1, 2], state)
    torch.testing.assert_close(state.states[0, -1], states[0, 3], rtol=1e-4, atol=1e-5)
    assert again.generate(text="One, two.", max_new_sentences=2).num_new_tokens[0] > 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["parallel", "linear", "causal", "anticausal", "bottleneck"])
def test_a_trunk_family_takes_heads_of_every_kind(kind):
    lm = olmo2(3)
    model = MultiTokenLM.from_lm(lm, 3, kind)
    torch.testing.assert_close(model.logits(IDS), lm(IDS).logits)


@pytest.fixture(scope="module")
def heads() -> MultiTokenLM:
    model = make_mtp(head_kind="bottleneck", opt=dict(vocab_size=64)).train()
    ids = 4 + torch.arange(16) % 7 + torch.arange(4)[:, None]
    batch = dict(input_ids=ids, attention_mask=ids > 0, ends=torch.ones(4, dtype=torch.bool))
    return trained(model, batch, steps=40).double()


@pytest.mark.parametrize("sampling", [{}, dict(do_sample=True, seed=3, temperature=0.7)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("tree", [None, ((0,), (1,), (0, 0), (1, 0))], ids=["chain", "tree"])
def test_a_kind_of_heads_drafts_without_loss(heads, tree, sampling):
    settings = dict(max_new_tokens=20) | sampling
    alone = heads.generate(IDS, num_draft=1, **settings)
    drafted = heads.generate(IDS, num_draft=3, tree=tree, **settings)
    assert drafted.sequences.tolist() == alone.sequences.tolist()
    if not sampling:
        assert sum(drafted.statistics.accepted) > 0


def test_a_kind_of_heads_is_saved_and_loaded(heads, tmp_path):
    heads.save_pretrained(tmp_path)
    again = MultiTokenLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(again.logits(IDS), heads.logits(IDS))


@pytest.mark.parametrize(
    "options",
    [
        dict(num_future_tokens=3, draft_head_kind="gated"),
        dict(next_vector="two layers"),
        dict(num_memory_vectors=2, vector_memory="direction"),
    ],
    ids=str,
)
def test_kinds_of_an_sllm_are_trained_written_with_and_saved(options, tmp_path):
    model = make_sllm(stop_bias=-100.0, **options)
    trained(model, vars(model.processor(["One, two. Three? Yes, five: six.", "Why"])))
    alone = model.generate(text="One, two.", max_new_sentences=3, num_draft=1)
    drafted = model.generate(text="One, two.", max_new_sentences=3, num_draft=options.get("num_future_tokens", 1))
    assert drafted.sequences.tolist() == alone.sequences.tolist()
    model.save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path)
    assert again.generate(text="One, two.", max_new_sentences=3, num_draft=1).texts == alone.texts


def test_a_latent_is_trained():
    vae = make_vae(latent="sphere").train()
    batch = {k: v[0] for k, v in vars(vae.processor(["One, two. Three? Four."])).items() if k != "sentence_mask"}
    trained(vae, batch)
    torch.testing.assert_close(vae.encode(**batch).norm(dim=1), torch.full((len(batch["input_ids"]),), 4.0))


def test_a_card_has_the_keys_of_those_that_are_there():
    card = yaml.safe_load(block_of("A corpus card", "yaml"))
    other = yaml.safe_load((ROOT / "data" / "cards" / "wikitext103.yaml").read_text(encoding="utf-8"))
    assert list(card) == list(other)
    assert f"--data {card['data']}" in card["commands"][0]
