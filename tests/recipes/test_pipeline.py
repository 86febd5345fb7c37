"""The whole way on a small text, as a user types it: prepare, trunk, autoencoder, graft, baseline, table, writing."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TRAIN, refused, sllm, story

from lmbase.report.rows import read_metrics
from sllm import SLLM
from sllm_data.prepared import PreparedData
from sllm_recipes import cli


@pytest.fixture(scope="module")
def table(runs):
    models = f"opt={runs}/opt tuned={runs}/opt-tuned vae={runs}/vae sllm={runs}/sllm mtp={runs}/mtp"
    sllm(
        f"evaluate --model {models} --data {runs}/data --rounds 1 --prompt_tokens 16 --new_tokens 8 --samples 1 "
        f"--device cpu --output_dir {runs}/evaluate"
    )
    return {(row.model, row.protocol): row for row in read_metrics(runs / "evaluate")["rows"]}


def test_the_table_has_a_row_for_every_model_and_protocol(table):
    assert set(table) == {
        ("opt", "full window"),
        ("tuned", "full window"),
        ("sllm", "full window"),
        ("sllm", "equal context"),
        ("mtp", "full window"),
        ("vae", "reconstruction"),
    }


def test_all_bytes_of_the_split_are_scored(table):
    expected = sum(len(story(seed).encode()) for seed in range(34, 38))
    for (_, protocol), row in table.items():
        if protocol != "reconstruction":
            assert row.bytes == expected
            assert row.bits_per_byte > 0


def test_the_baseline_is_the_tuned_trunk_and_its_tokens_add_up(table):
    sllm_row, opt, tuned = (table[name, "full window"] for name in ("sllm", "opt", "tuned"))
    assert sllm_row.extra["compared_with"] == "tuned"
    assert sllm_row.extra["ratio"] == pytest.approx(sllm_row.bits_per_byte / tuned.bits_per_byte)
    assert opt.training_tokens < tuned.training_tokens
    assert sllm_row.training_tokens > opt.training_tokens


def test_a_multi_token_model_is_scored_by_head_1_and_has_the_nats_of_all(table):
    row, opt = table["mtp", "full window"], table["opt", "full window"]
    assert row.extra["nats_head_1"] < row.extra["nats_head_3"]
    assert row.extra["tokens_per_forward"] >= 1
    assert row.training_tokens > opt.training_tokens
    assert row.parameters > opt.parameters
    assert row.tokens_per_second > 0
    assert row.extra["ratio"] > 0


def test_a_multi_token_model_writes_the_same_whatever_it_drafts(runs, capsys):
    texts = set()
    for drafts in ("1", "3", "auto"):
        sllm(f"generate --model {runs}/mtp --prompt Hello --max_new_tokens 12 --num_draft {drafts} --device cpu")
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1


def test_a_prepared_folder_and_the_text_it_came_from_score_alike(runs, table):
    sllm(
        f"evaluate --model opt={runs}/opt --data {runs}/text --speed false --samples 0 --device cpu "
        f"--output_dir {runs}/evaluate-text"
    )
    (row,) = read_metrics(runs / "evaluate-text")["rows"]
    assert row.nats == pytest.approx(table["opt", "full window"].nats, rel=1e-5)


def test_rows_by_the_papers_protocol_are_marked(runs, capsys):
    sllm(
        f"evaluate --model {runs}/opt {runs}/sllm --data {runs}/data --protocol paper --samples 0 --device cpu "
        f"--output_dir {runs}/evaluate-paper"
    )
    rows = read_metrics(runs / "evaluate-paper")["rows"]
    assert all(row.protocol == "paper" and row.bits_per_byte is None and row.extra["ppl"] > 1 for row in rows)
    assert "not comparable" in capsys.readouterr().out


def test_the_report_shows_runs_and_table(runs, table):
    sllm(f"report --runs {runs}")
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "equal context" in page
    assert "://" not in page.replace("http://www.w3.org", "")  # nothing is fetched


def test_generate_prints_the_prompt_and_what_follows(runs, capsys):
    sllm(f"generate --model {runs}/sllm --prompt Hello --max_new_tokens 6 --device cpu")
    first = capsys.readouterr().out
    assert first.startswith("Hello")
    sllm(f"generate --model {runs}/sllm --prompt Hello --max_new_tokens 6 --device cpu")
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("name", ["opt", "sllm"])
def test_generate_writes_the_same_text_whatever_drafts(runs, name, capsys):
    command = f"generate --model {runs}/{name} --prompt Hello --max_new_tokens 12 --device cpu"
    sllm(command)
    plain = capsys.readouterr()
    sllm(f"{command} --prompt_lookup_num_tokens 3")
    assert capsys.readouterr().out == plain.out
    if name == "opt":
        sllm(f"{command} --assistant {runs}/sllm")
        assisted = capsys.readouterr()
        assert assisted.out == plain.out
        assert "tokens per forward pass" in assisted.err


def test_an_assistant_is_an_sllm_beside_an_opt(runs, capsys):
    pair = f"--model {runs}/opt --assistant {runs}/sllm"
    for words, told in (
        (f"--model {runs}/sllm --assistant {runs}/sllm", "drafts for a plain token-level model"),
        (f"--model {runs}/opt --assistant {runs}/opt", "is an SLLM"),
        (f"{pair} --num_draft 2", "drafts alone"),
        (f"{pair} --prompt_lookup_num_tokens 2", "drafts alone"),
    ):
        with pytest.raises(SystemExit):
            sllm(f"generate {words} --prompt Hello --device cpu")
        assert told in capsys.readouterr().err


TOLD = r"\[(\d+) tokens in [\d.]+ s \([\d.,]+ tokens/s\), finished by (stop|length)(.*)\]\n"


def told(line: str) -> tuple[str, ...]:
    """Tokens, finish reason and the rest of what `generate` writes to stderr."""
    match = re.fullmatch(TOLD, line)
    assert match, line
    return match.groups()


def test_generate_with_weights_in_fewer_bits(runs, capsys):
    for name, weights in (("opt", "int8"), ("sllm", "int4"), ("mtp", "int4")):
        sllm(f"generate --model {runs}/{name} --prompt Hello --max_new_tokens 6 --weights {weights} --device cpu")
        assert capsys.readouterr().out.startswith("Hello")
    with pytest.raises(SystemExit):
        sllm(f"generate --model {runs}/vae --prompt Hello --weights int8 --device cpu")
    assert "it writes what it read" in capsys.readouterr().err


def test_generate_tells_on_stderr_how_it_went(runs, capsys):
    sllm(f"generate --model {runs}/opt --prompt Hello --max_new_tokens 6 --device cpu")
    number, reason, rest = told(capsys.readouterr().err)
    assert rest == ""
    assert (reason == "length") == (number == "6")
    sllm(f"generate --model {runs}/sllm --prompt Hello --max_new_tokens 60 --device cpu")
    printed = capsys.readouterr()
    assert "tokens/s" not in printed.out
    number, reason, rest = told(printed.err)
    assert (reason == "length") == (number == "60")
    output = SLLM.from_pretrained(runs / "sllm" / "model").generate(text="Hello", max_new_tokens=60)
    assert int(number) == output.num_new_tokens[0]
    if output.recut_share is None:
        assert rest == ""
    else:
        assert (
            rest == f", {output.recut_share:.1%} of the sentences would change if their text were cut and "
            "tokenised anew"
        )


def test_speed_is_measured_in_the_dtype_asked_for_and_likelihood_is_not(runs, table):
    models = f"opt={runs}/opt tuned={runs}/opt-tuned sllm={runs}/sllm"
    sllm(
        f"evaluate --model {models} --data {runs}/data --rounds 1 --prompt_tokens 16 --new_tokens 8 --samples 0 "
        f"--dtype bf16 --device cpu --output_dir {runs}/evaluate-bf16"
    )
    for row in read_metrics(runs / "evaluate-bf16")["rows"]:
        expected = table[row.model, row.protocol]
        assert (row.dtype, row.nats) == ("fp32", pytest.approx(expected.nats, rel=1e-6))
        if row.protocol == "full window":
            assert (row.extra["speed_dtype"], expected.extra["speed_dtype"]) == ("bf16", "fp32")
        if row.protocol == "full window" and row.model != "sllm":  # whose share of text in the cache is its own
            assert row.kv_bytes_per_token == expected.kv_bytes_per_token / 2


def test_several_files_as_a_shell_gives_them(runs):
    files = " ".join(str(path) for path in sorted((runs / "text").iterdir()))
    tokenizer = f"--tokenizer {runs}/data/processor --rule punctuation"
    sllm(f"train-lm --lm {runs}/opt --data {files} {tokenizer} {TRAIN} --context 128 --output_dir {runs}/opt-files")
    sllm(f"pretrain-vae --lm {runs}/opt --data {files} {tokenizer} {TRAIN} --output_dir {runs}/vae-files")
    graft = f"--vae {runs}/vae --lm {runs}/opt --max_sentences 16"
    sllm(f"finetune-sllm {graft} --data {files} {TRAIN} --output_dir {runs}/sllm-files")
    data = PreparedData.load(runs / "data")
    expected = data.hash
    for run in ("opt", "vae", "sllm"):
        assert PreparedData.load(runs / f"{run}-files" / "data").hash == expected
        (state,) = (runs / f"{run}-files").glob("checkpoints/*/state.json")
        assert json.loads(state.read_text())["data_hash"] == data.training_hash
    sllm(f"audit --model {runs}/sllm-files --data {files} --device cpu")
    sllm(
        f"evaluate --model {runs}/opt-files --data {files} --speed false --samples 0 --device cpu "
        f"--output_dir {runs}/evaluate-files"
    )
    sllm(
        f"benchmark --size tiny --subset train --data {files} --tokenizer bytes --train_tokens 64 --rounds 1 "
        f"--dtype fp32 --device cpu --output_dir {runs}/benchmark-files"
    )
    assert read_metrics(runs / "benchmark-files")["corpus"] == {"name": "text", "sha256": expected}
    corpus = read_metrics(runs / "evaluate-files")["corpus"]
    texts = [story(seed).encode() + b"\0" for seed in range(34, 38)]
    assert corpus == {"name": "text", "sha256": hashlib.sha256(b"".join(texts)).hexdigest()}


def test_a_table_names_the_prepared_data_by_their_hash(runs, table):
    data = PreparedData.load(runs / "data")
    assert read_metrics(runs / "evaluate")["corpus"] == {"name": data.name, "sha256": data.hash}


def damaged(runs, name: str):
    """A copy of a run whose weights were cut off."""
    copy = runs / f"damaged-{name}"
    shutil.copytree(runs / name, copy, dirs_exist_ok=True)
    weights = copy / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return copy


MISTAKES = {
    "unknown key": (lambda runs: f"train-lm --data {runs}/data --learning_rat 1e-3", "learning_rate"),
    "wrong type": (lambda runs: f"train-lm --data {runs}/data --batch_size many", "batch_size"),
    "no such config": (lambda runs: "train-lm lm_smal", "lm_small"),
    "no such model": (lambda runs: f"generate --model {runs}/nothing --prompt x", "nothing"),
    "unfinished run": (lambda runs: f"generate --model {unfinished(runs)} --prompt x", "not finished"),
    "damaged weights": (lambda runs: f"generate --model {damaged(runs, 'sllm')} --prompt x", "cut off"),
    "an autoencoder cannot write": (lambda runs: f"generate --model {runs}/vae --prompt x", "autoencoder"),
    "more heads than there are": (
        lambda runs: f"generate --model {runs}/mtp --prompt x --num_draft 4",
        "3 heads, so choose 1",
    ),
    "a draft length that is none": (
        lambda runs: f"generate --model {runs}/mtp --prompt x --num_draft many",
        "'auto'",
    ),
    "two names of one key": (lambda runs: "train-lm --lm random:tiny --opt random:small", "`opt=` beside `lm=`"),
    "steps and tokens": (
        lambda runs: f"train-lm --lm random:tiny --data {runs}/data --max_steps 5 --train_tokens 5000",
        "give one of them",
    ),
    "nothing to evaluate": (lambda runs: "evaluate", "--model"),
    "no baseline": (lambda runs: f"evaluate --model {runs}/sllm --data {runs}/data", "baseline"),
    "no such split": (lambda runs: f"evaluate --model {runs}/opt --data {runs}/data --split dev", "dev"),
}


def unfinished(runs):
    (runs / "unfinished" / "checkpoints").mkdir(parents=True, exist_ok=True)
    return runs / "unfinished"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(runs, mistake, capsys):
    command, told = MISTAKES[mistake]
    argv = command(runs)
    if "--output_dir" not in argv:
        argv += f" --output_dir {runs}/mistake" if not argv.startswith("generate") else ""
    assert told in refused(argv, capsys)


def test_a_lone_surrogate_in_a_prompt_is_refused_with_its_offset(runs, capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--model", f"{runs}/sllm", "--prompt", "ab\udc80"])
    assert "character 2" in capsys.readouterr().err


def test_pickled_weights_are_not_loaded(runs, capsys):
    folder = runs / "pickled"
    shutil.copytree(runs / "opt" / "model", folder, dirs_exist_ok=True)
    (folder / "manifest.json").unlink()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(SystemExit):
        sllm(f"generate --model {folder} --prompt x")
    assert "safetensors" in capsys.readouterr().err


def test_an_opt_writes_up_to_its_last_position_and_no_further(runs, capsys):
    """The trunk has 128 positions; </s> and `Hello` leave the rest, and the last token written takes none."""
    command = f"generate --model {runs}/opt --prompt Hello --device cpu --max_new_tokens "
    ended = {}
    for most in (20, 200):
        capsys.readouterr()
        sllm(command + str(most))
        told = capsys.readouterr().err.rpartition("[")[2]
        ended[most] = int(told.split()[0]), "finished by context" in told
    assert ended[20] == (20, False)
    assert 100 < ended[200][0] < 128
    assert ended[200][1]
