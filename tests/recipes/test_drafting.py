"""The recipe `drafting` and what `benchmark` says of heads, as a user types it."""

import json

import pytest
import torch
from tiny import make_mtp, make_opt

from lmbase.files import verify_folder, write_folder
from lmbase.report.rows import read_metrics
from lmbase.text.tokenizers import load_tokenizer
from multitoken import MultiTokenLM, draft_loop
from sllm_recipes import cli


def sllm(command: str) -> None:
    cli.main(command.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was trained a little on bytes, so that some guesses come true; and its text."""
    folder = tmp_path_factory.mktemp("drafting")
    (folder / "text").mkdir()
    text = "the cat and the dog and the bird see the old house and the old tree. "
    for split in ("train", "valid", "test"):
        lines = [json.dumps({"text": text[i:] + text}) for i in range(3)]
        (folder / "text" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    model = make_mtp().train()
    model.tokenizer = load_tokenizer("bytes")
    ids = torch.tensor(model.tokenizer.encode(text, add_special_tokens=False))
    windows = ids.unfold(0, 28, 1)[::3]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        none = torch.zeros(len(windows), dtype=torch.bool)
        model(windows, torch.ones_like(windows, dtype=torch.bool), none).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    write_folder(folder / "run" / "model", model.eval().save_pretrained)
    return folder


def command(folder, output="measured"):
    keys = f"--quick --draws 60 --device cpu --output_dir {folder}/{output}"
    return f"drafting --model {folder}/run --data {folder}/text {keys}"


@pytest.mark.long
def test_drafting_measures_saves_the_tree_and_its_acceptance_is_replayed(folder, capsys):
    sllm(f"{command(folder)} --nodes 5 --save_tree")
    capsys.readouterr()
    by_protocol: dict[str, list] = {}
    for row in read_metrics(folder / "measured")["rows"]:
        by_protocol.setdefault(row.protocol, []).append(row)
    assert [row.extra["head"] for row in by_protocol["candidates"]] == [2, 3]
    drafting = {(row.extra["way"], row.extra["batch_size"]): row for row in by_protocol["drafting"]}
    ways = ("plain", "2 heads", "3 heads", "tree", "auto", "auto tree")
    assert set(drafting) == {(way, size) for way in ways for size in (1, 2)}
    for (way, _), row in drafting.items():
        assert row.extra["lossless"] == "yes"
        assert row.extra["equal_fp64"] == row.extra["prompts"] == 4
        assert row.extra["equal_fp32"] + row.extra["ties_fp32"] == 4
        assert (row.extra.get("break_even") is None) == (way == "plain")
    assert drafting["3 heads", 1].extra["tokens_per_forward"] > 1
    assert {row.extra["way"] for row in by_protocol["sampling"]} == {"3 heads", "tree"}
    table = (folder / "measured" / "table.md").read_text()
    assert "accepted counts" not in table
    assert table.count("| model |") == 3

    verify_folder(folder / "run" / "model")
    saved = MultiTokenLM.from_pretrained(folder / "run" / "model").config.draft_tree
    assert saved == drafting["tree", 1].extra["draft_tree"]

    sllm(
        f"benchmark --subset replay --size tiny --quick --dtype fp32 --device cpu --acceptance_from {folder}/measured "
        f"--prompt_tokens 8 --ways tree auto --output_dir {folder}/few"
    )
    few = [row.extra["way"] for row in read_metrics(folder / "few")["rows"]]
    assert few == ["Transformers", "plain", "tree", "auto", "auto, nothing accepted"]
    with pytest.raises(SystemExit):
        sllm(f"benchmark --subset replay --acceptance_from {folder}/measured --ways often --output_dir {folder}/none")
    sllm(
        f"benchmark --subset replay --size tiny --quick --dtype fp32 --device cpu --acceptance_from {folder}/measured "
        f"--prompt_tokens 8 --output_dir {folder}/replayed"
    )
    rows = {row.extra["way"]: row for row in read_metrics(folder / "replayed")["rows"]}
    assert "acceptance of run" in rows["3 heads"].protocol
    assert rows["3 heads"].extra["tokens_per_forward"] == pytest.approx(
        drafting["3 heads", 1].extra["tokens_per_forward"], rel=0.3
    )


def test_a_lossy_decoder_is_told_loudly_and_ends_with_status_2(folder, capsys, monkeypatch):
    def accept_everything(tree, draft_ids, chosen_ids):
        return list(range(tree.depth + 1)) if len(tree.nodes) == tree.depth + 1 else [0]

    monkeypatch.setattr(draft_loop, "verify", accept_everything)
    with pytest.raises(SystemExit) as stopped:
        sllm(f"{command(folder, 'lossy')} --dtypes fp32 --draws 0")
    assert stopped.value.code == 2
    assert "DRAFTING IS NOT LOSSLESS" in capsys.readouterr().err
    verdicts = {row.extra["way"]: row.extra["lossless"] for row in read_metrics(folder / "lossy")["rows"][2:]}
    assert verdicts["3 heads"].startswith("NO: ")
    assert verdicts["plain"] == "yes"
    assert "NO: " in (folder / "lossy" / "table.md").read_text()


def test_heads_are_compared_in_time_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sllm.benchmarks.training.in_own_process", lambda work, *given: work(*given))
    command = f"--size tiny --quick --dtype fp32 --device cpu --output_dir {tmp_path} --acceptance_from {tmp_path}"
    with pytest.raises(SystemExit):  # no drafts were measured there; what comes before replay is not lost
        sllm(f"benchmark --subset heads replay {command}")
    rows = read_metrics(tmp_path)["rows"]
    assert [row.extra["num_future_tokens"] for row in rows] == [1, 2]
    assert rows[1].extra["flops_ratio"] > 1
    assert {"peak_megabytes", "naive_peak_megabytes"} <= set(rows[0].extra)
    assert all(row.extra["naive_largest_logits_megabytes"] == 512 * 4096 * 4 / 1e6 for row in rows)


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opt")
    make_opt().save_pretrained(folder)
    load_tokenizer("bytes").save_pretrained(folder)
    return folder


MISTAKES = {
    "no model": (lambda folder, opt: "drafting", "--model"),
    "no heads": (lambda folder, opt: f"drafting --model {opt}", "only a multi-token model drafts"),
    "too many tokens": (
        lambda folder, opt: f"drafting --model {folder}/run --prompt_tokens 30 --new_tokens 30",
        "32 positions",
    ),
    "no such split": (
        lambda folder, opt: f"drafting --model {folder}/run --data {folder}/text --quick --split dev",
        "dev",
    ),
    "replaying nothing": (lambda folder, opt: "benchmark --subset replay", "--acceptance_from"),
    "more heads than blocks": (
        lambda folder, opt: "benchmark --subset heads --num_blocks 2 --num_future_tokens 4",
        "as many heads at most",
    ),
    "no rounds": (lambda folder, opt: "benchmark --subset heads --rounds 0", "rounds"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message(folder, opt, mistake, capsys, tmp_path):
    words, told = MISTAKES[mistake]
    with pytest.raises(SystemExit) as stopped:
        sllm(f"{words(folder, opt)} --device cpu --output_dir {tmp_path}/mistake")
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
