"""`sllm learn-cuts`, and a model that is trained on its cuts, as a user types them."""

import io
import json
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
from small_runs import TRAIN, refused, sllm

from lmbase.modeling.pretrained import load_lm
from lmbase.report.rows import read_metrics
from lmbase.text.learned import ARRAYS_NAME
from lmbase.text.processor import SentenceProcessor
from sllm import SLLM
from sllm_data.prepared import PreparedData
from sllm_recipes import learn_cuts

SMALL = (
    "--train_tokens 1500 --cost_tokens 2500 --max_sentence_tokens 32 --context 64 --sentence_tokens 8 --device cpu "
    "--price_tokens 100"
)
pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")


def command(runs, folder):
    priced = f"--price_on valid={runs}/text/test.jsonl other={runs}/text/valid.jsonl"
    return f"learn-cuts --data {runs}/data {SMALL} {priced} --output_dir {folder}"


@pytest.fixture(scope="module")
def cuts(runs):
    """A rule learned from prepared data, and data that are prepared with it."""
    folder = runs / "learned"
    (folder / "disk").mkdir(parents=True)
    (folder / "cuts").symlink_to(folder / "disk")
    with redirect_stdout(io.StringIO()) as told:
        sllm(command(runs, folder / "cuts"))
    (folder / "told").write_text(told.getvalue())
    prepare = f"prepare --data {runs}/text --max_sentence_tokens 32 --num_workers 1 --rule {folder}/cuts"
    sllm(f"{prepare} --tokenizer {folder}/cuts --output_dir {folder}/data")
    return folder


def test_prepared_data_carry_the_rule(runs, cuts):
    data, own = PreparedData.load(cuts / "data"), SentenceProcessor.from_pretrained(cuts / "cuts")
    assert data.processor.fingerprint == own.fingerprint
    assert data.processor.rule == "learned"
    assert data.processor.punkt
    assert own.punkt
    assert (data.processor.punkt["table"] == own.punkt["table"]).all()
    assert data.statistics["train"]["rules"] == {"learned": 30}
    assert 4 < data.statistics["train"]["tokens"] / data.statistics["train"]["sentences"] < 16


def test_every_rule_has_a_price(cuts):
    assert f"wrote {cuts}/cuts/metrics.json" in (cuts / "told").read_text()  # where it stands in the end
    rows = read_metrics(cuts / "cuts")["rows"]
    assert [row.model for row in rows] == ["punctuation", "sentence", "line", "auto", "learned"] * 2
    assert [row.data for row in rows] == ["valid"] * 5 + ["other"] * 5
    assert all(np.isfinite(row.extra["nats_per_byte"]) for row in rows)
    assert all(row.extra.get("optimum_over_rule", 1) <= 1 for row in rows)


def test_a_model_trained_on_them_works_at_every_door(runs, cuts, capsys):
    """Autoencoder, SLLM on raw text, score, generate, evaluate, verify."""
    data = f"--data {cuts}/data"
    sllm(f"pretrain-vae --lm {runs}/opt {data} {TRAIN} --output_dir {cuts}/vae")
    graft = f"--vae {cuts}/vae --lm {runs}/opt --max_sentences 16 --data {runs}/text"
    sllm(f"finetune-sllm {graft} {TRAIN} --output_dir {cuts}/sllm")
    model = SLLM.from_pretrained(cuts / "sllm" / "model")
    assert model.processor.fingerprint == PreparedData.load(cuts / "data").processor.fingerprint
    scores = model.score(["The cat sees. A dog likes."])
    assert scores.bytes == [26]
    assert np.isfinite(scores.nats[0])
    sllm(f"generate Hello --model {cuts}/sllm --max_new_tokens 5 --device cpu")
    sllm(f"verify {cuts}/sllm")
    quick = f"{data} --quick true --device cpu --dtype fp32 --output_dir {cuts}/figures"
    sllm(f"evaluate --model {runs}/opt {cuts}/sllm {quick}")


def test_the_same_again_is_only_verified_and_another_refused(runs, cuts, capsys):
    sllm(command(runs, cuts / "cuts"))
    assert "finished already" in capsys.readouterr().out
    assert "another configuration" in refused(f"{command(runs, cuts / 'cuts')} --seed 1", capsys)
    assert "another configuration" in refused(f"{command(runs, cuts / 'cuts')} --prices false", capsys)


def test_a_link_stays_one_and_nothing_is_left_but_the_rule(cuts):
    assert (cuts / "cuts").is_symlink()
    assert not [path.name for path in (cuts / "disk").iterdir() if path.is_dir()]
    sllm(f"verify {cuts}/cuts")


def test_an_interrupted_run_keeps_its_reader(runs, cuts, tmp_path, capsys, monkeypatch):
    """Here the current folder; what it is priced on is decided when it is priced."""
    monkeypatch.chdir(tmp_path)
    again = f"learn-cuts --data {runs}/data {SMALL} --output_dir"
    with monkeypatch.context() as patched:
        patched.setattr(learn_cuts, "fit", lambda *_: (_ for _ in ()).throw(ValueError("stopped")))
        assert "stopped" in refused(f"{again} .", capsys)
    sllm(f"{again} . --prices false")
    assert "goes on with the reader" in capsys.readouterr().out
    whole, broken = (SentenceProcessor.from_pretrained(name) for name in (cuts / "cuts", tmp_path))
    assert whole.fingerprint == broken.fingerprint
    # as if it had been stopped while its files were put into place
    rule = tmp_path / learn_cuts.RULE
    rule.mkdir()
    for name in ("manifest.json", "tokenizer.json"):
        (tmp_path / name).rename(rule / name)
    sllm(f"{again} {tmp_path} --prices false")
    assert "finished already" in capsys.readouterr().out
    assert not rule.exists()


def test_a_folder_of_other_things_is_left_alone(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learn_cuts, "_texts", lambda _: pytest.fail("work has begun"))
    mine, small = tmp_path / "mine", f"learn-cuts {SMALL} --prices false"
    shutil.copytree(runs / "text", mine)
    before = sorted(mine.iterdir())
    assert "holds 'test.jsonl'" in refused(f"{small} --data {mine} --output_dir {mine}", capsys)
    (tmp_path / "link").symlink_to(mine)
    assert "holds 'test.jsonl'" in refused(f"{small} --data {mine} --output_dir {tmp_path}/link", capsys)
    assert sorted(mine.iterdir()) == before
    (tmp_path / "own" / "reader").mkdir(parents=True)
    assert "holds 'reader'" in refused(f"{small} --data {mine} --output_dir {tmp_path}/own", capsys)
    assert "lies in the folder of texts" in refused(f"{small} --data {mine} --output_dir {mine}/cuts", capsys)
    model = runs / "opt" / "model"  # it has a manifest, too
    assert "learn-cuts did not write" in refused(f"{small} --data {mine} --output_dir {model}", capsys)


def test_what_would_fail_later_is_told_before_the_reader_is_trained(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learn_cuts, "train_reader", lambda *_: pytest.fail("the reader is trained"))
    small = f"learn-cuts {SMALL} --tokenizer bytes --output_dir {tmp_path}/out"
    shutil.copytree(runs / "text", tmp_path / "text")
    (tmp_path / "text" / "valid.jsonl").unlink()
    assert "no split 'valid'" in refused(f"{small} --data {tmp_path}/text", capsys)
    (tmp_path / "dna.jsonl").write_text(json.dumps({"text": "ACGT" * 5}))
    assert "too few" in refused(f"{small} --data {tmp_path}/dna.jsonl --prices false", capsys)
    (tmp_path / "empty.jsonl").write_text(json.dumps({"text": ""}))
    priced = f"{small} --data {runs}/text --price_on"
    assert "'code' holds no text" in refused(f"{priced} code={tmp_path}/empty.jsonl", capsys)
    assert "no such file" in refused(f"{priced} code={tmp_path}/none.jsonl", capsys)
    assert "'a' is given twice" in refused(f"{priced} a={runs}/text a={runs}/text", capsys)
    assert "NAME=FILES" in refused(f"{priced} {runs}/text", capsys)
    lm = f"learn-cuts --data {runs}/data --lm {runs}/opt --output_dir {tmp_path}/lm"
    assert "128 positions" in refused(lm, capsys)
    assert not (tmp_path / "out" / "config.yaml").exists()  # a mistake claims no folder


def test_mistakes_are_told(runs, cuts, tmp_path, capsys):
    prepare = f"prepare --data {runs}/text --num_workers 1 --output_dir {tmp_path}/data"
    assert "sllm learn-cuts" in refused(f"{prepare} --rule learned", capsys)
    assert "another tokenizer" in refused(f"{prepare} --rule {cuts}/cuts --tokenizer bytes", capsys)
    damaged = tmp_path / "damaged"
    shutil.copytree(cuts / "cuts", damaged)
    file = damaged / ARRAYS_NAME
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert "damaged" in refused(f"{prepare} --rule {damaged} --tokenizer bytes", capsys)
    small = f"learn-cuts {SMALL} --tokenizer bytes --output_dir {tmp_path}"
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "One line."}))
    assert "too few" in refused(f"{small}/one --data {tmp_path}/one.jsonl --prices false", capsys)
    (tmp_path / "none.jsonl").write_text("")
    assert "no document" in refused(f"{small}/none --data {tmp_path}/none.jsonl", capsys)
    assert "sentence_tokens=90" in refused(f"{small}/q --data {runs}/text --sentence_tokens 90", capsys)


def test_a_model_that_keeps_a_window_reads_no_costs(runs, tmp_path, capsys):
    lm = load_lm(str(runs / "opt"))
    lm.config.keep_window = 8
    lm.save_pretrained(tmp_path / "kept")
    PreparedData.load(runs / "data").processor.save_pretrained(tmp_path / "kept")
    told = refused(f"learn-cuts --data {runs}/data --lm {tmp_path}/kept {SMALL} --output_dir {tmp_path}/out", capsys)
    assert "keeps a window of 8 tokens" in told
