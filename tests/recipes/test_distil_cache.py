"""`sllm distil-cache` and students of a teacher, as a user types them."""

import json
import shutil

import numpy as np
import pytest
import torch
from small_runs import TRAIN, other_tokenizer, refused, sllm, story

from lmbase.modeling.pretrained import load_lm
from lmbase.training.cost import Training, read_training
from lmbase.training.runlog import log_records
from sllm_data.prepared import PreparedData
from sllm_data.teacher_cache import TeacherCache

CONTEXT = 128  # of the stories in `runs` some are longer, none by much


@pytest.fixture(scope="module")
def taught(runs):
    """A folder with a tuned teacher's cache of all 300 ids, one of a part, and two students of it."""
    folder = runs / "taught"
    cache = f"distil-cache --lm {runs}/opt-tuned --data {runs}/data --context {CONTEXT} --top 300 --device cpu"
    sllm(f"{cache} --output_dir {folder}/cache")
    sllm(f"{cache} --train_tokens 700 --output_dir {folder}/part")
    sllm(f"{student(runs)} --teacher {folder}/cache --output_dir {folder}/of-cache")
    return folder


def student(runs, more="--teacher_weight 0.7"):
    """Reads windows that begin where the teacher's do: the first half of each story is in one of its windows."""
    return f"train-lm --lm {runs}/opt --keep_layers 1+1 --data {runs}/data --context 65 {TRAIN} {more}"


def short_texts(runs):
    """Data of the same vocabulary, none of them longer than 64 tokens."""
    if not (runs / "data-short").exists():
        lines = [json.dumps({"text": story(seed)[:90]}) for seed in range(40)]
        (runs / "short.jsonl").write_text("\n".join(lines), encoding="utf-8")
        own = f"--tokenizer {runs}/opt/model --rule punctuation --num_workers 1"
        sllm(f"prepare --data {runs}/short.jsonl {own} --output_dir {runs}/data-short")
    return runs / "data-short"


def steps_of(run):
    return [record["losses"] for record in log_records(run / "log.jsonl") if "losses" in record]


def test_the_rows_are_the_teachers(runs, taught):
    cache, split = TeacherCache.load(taught / "cache"), PreparedData.load(runs / "data").split("train")
    assert cache.num_tokens == split.num_tokens
    stop = min(int(split.sentence_tokens[split.document_sentences[1]]), CONTEXT - 1)
    lm = load_lm(str(runs / "opt-tuned")).eval()
    read = torch.tensor([[lm.config.bos_token_id, *split.tokens(0, stop).tolist()]])
    expected = lm(read).logits[0, :-1].log_softmax(-1)
    ids, log_probs = cache.rows(np.arange(stop))
    found = torch.zeros_like(expected).scatter(-1, torch.from_numpy(ids).long(), torch.from_numpy(log_probs).float())
    torch.testing.assert_close(found, expected.detach(), atol=5e-3, rtol=1e-3)
    assert TeacherCache.load(taught / "part").num_tokens == 700


def test_a_student_of_a_cache_learns_what_a_student_of_the_model_does(runs, taught):
    """All ids are kept and no text is longer than a window, so that they are the same but for fp16."""
    short = f"--data {short_texts(runs)}"
    sllm(f"distil-cache --lm {runs}/opt-tuned {short} --context 65 --top 300 --output_dir {taught}/of-short")
    run = student(runs).replace(f"--data {runs}/data", short)
    sllm(f"{run} --teacher {taught}/of-short --output_dir {taught}/short-cache")
    sllm(f"{run} --teacher {runs}/opt-tuned --output_dir {taught}/short-model")
    cached, online = steps_of(taught / "short-cache"), steps_of(taught / "short-model")
    assert [set(losses) for losses in cached] == [{"token", "teacher", "distilled"}] * len(online)
    for of_cache, of_model in zip(cached, online, strict=True):
        assert of_cache == pytest.approx(of_model, rel=5e-3)
    assert cached[-1]["teacher"] < cached[0]["teacher"]


def test_a_student_is_saved_and_scored_as_any_model(runs, taught):
    figures = log_records(taught / "of-cache" / "log.jsonl")[-1]
    assert {"token", "bits_per_byte"} <= figures["eval"].keys()
    assert "teacher" not in figures["eval"]
    assert load_lm(str(taught / "of-cache")).config.num_hidden_layers == 2


@pytest.mark.parametrize("teacher", ["taught/cache", "opt-tuned"])
def test_micro_batches_and_an_interruption_change_nothing(runs, taught, teacher):
    """Steps are logged every other one, so that no interval crosses the interruption."""
    run = f"{student(runs)} --teacher {runs}/{teacher}"
    name = teacher.rpartition("/")[2]
    sllm(f"{run} --output_dir {taught}/{name}-whole --save_every 2")
    sllm(f"{run} --micro_batch_size 1 --output_dir {taught}/{name}-small --save_every 2")
    shutil.rmtree(taught / f"{name}-small" / "model")
    for checkpoint in sorted((taught / f"{name}-small" / "checkpoints").iterdir())[-1:]:
        shutil.rmtree(checkpoint)
    sllm(f"{run} --micro_batch_size 3 --output_dir {taught}/{name}-small --save_every 2")
    expected, found = steps_of(taught / f"{name}-whole"), steps_of(taught / f"{name}-small")
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def cost(run) -> Training:
    found = read_training(run)
    assert found is not None
    return found


def test_what_the_teacher_read_counts(runs, taught):
    alone, of_model, of_cache = map(cost, (taught / name for name in ("cache", "opt-tuned-whole", "of-cache")))
    assert alone.flops > 0
    assert (alone.tokens, [parent.name for parent in alone.parents]) == (0, ["opt-tuned"])
    assert [parent.name for parent in of_cache.parents] == ["opt", "cache"]
    assert [parent.name for parent in of_model.parents] == ["opt", "opt-tuned"]
    assert of_cache.total_flops > of_cache.flops + alone.flops
    # 4 layers forwards beside 2 layers forwards and backwards
    assert 1.3 * of_cache.flops < of_model.flops < 2 * of_cache.flops


def test_a_teacher_that_was_replaced_is_noticed(runs, taught):
    sllm(f"distil-cache --lm {runs}/opt --data {runs}/data --top 8 --output_dir {taught}/other --context 64")
    shutil.copytree(taught / "other", taught / "replaced")
    run = f"{student(runs)} --teacher {taught}/replaced --output_dir {taught}/of-replaced"
    sllm(run)
    shutil.rmtree(taught / "replaced")
    shutil.copytree(taught / "cache", taught / "replaced")
    with pytest.raises(SystemExit):
        sllm(run)


def test_verify_knows_such_a_folder(taught, capsys):
    sllm(f"verify {taught}/cache")
    assert "3 checked, no faults" in capsys.readouterr().out
    shutil.copytree(taught / "cache", taught / "damaged")
    path = taught / "damaged" / "teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top": 299}))
    with pytest.raises(SystemExit):
        sllm(f"verify {taught}/damaged")
    assert "teacher.json" in capsys.readouterr().out


MISTAKES = {
    "a teacher of another vocabulary": (
        lambda r: f"{student(r)} --teacher {other_tokenizer(r)}",
        "tokenizers of the data and of the teacher",
    ),
    "a cache of other data": (
        lambda r: f"train-lm --lm {r}/opt --data {short_texts(r)} --context 64 {TRAIN} --teacher {r}/taught/cache",
        "was made from other data ('text', SHA-256",
    ),
    "a cache that is too short": (
        lambda r: f"{student(r)} --teacher {r}/taught/part",
        "the first 700 tokens of the train split, and step 1 of this training reads token",
    ),
    "a teacher without positions": (
        lambda r: f"train-lm --lm random:tiny --data {r}/data --context 129 {TRAIN} --teacher {r}/opt",
        "windows of 129 are to be read: give a smaller --context",
    ),
    "random teachers": (lambda r: f"{student(r)} --teacher random:tiny", "random weights have nothing to teach"),
    "no such teacher": (lambda r: f"{student(r)} --teacher {r}/none", "none"),
    "a sentence model as teacher": (lambda r: f"{student(r)} --teacher {r}/sllm", "sllm"),
    "weight above 1": (lambda r: f"{student(r, '--teacher_weight 1.5')} --teacher {r}/opt", "teacher_weight=1.5"),
    "weight below 0": (lambda r: f"{student(r, '--teacher_weight -0.5')} --teacher {r}/opt", "teacher_weight=-0.5"),
    "no number": (lambda r: f"{student(r, '--teacher_weight nan')} --teacher {r}/opt", "teacher_weight"),
    "weight 0": (lambda r: f"{student(r, '--teacher_weight 0')} --teacher {r}/opt", "would say nothing"),
    "a weight and no teacher": (lambda r: student(r), "teacher_weight=0.7: there is no teacher"),
    "more layers than there are": (
        lambda r: f"train-lm --lm {r}/opt --keep_layers 3+2 --data {r}/data {TRAIN}",
        "keep_layers=3+2: 3 + 2 layers are more than the 4",
    ),
    "layers of random weights": (
        lambda r: f"train-lm --lm random:tiny --keep_layers 1+1 --data {r}/data {TRAIN}",
        "has random weights",
    ),
    "no layers": (lambda r: f"train-lm --lm {r}/opt --keep_layers 14 --data {r}/data {TRAIN}", "write FIRST+LAST"),
    "a cache of another vocabulary": (
        lambda r: f"distil-cache --lm {other_tokenizer(r)} --data {r}/data",
        "tokenizers of the data and of the teacher",
    ),
    "a cache of random weights": (lambda r: f"distil-cache --lm random:tiny --data {r}/data", "nothing to teach"),
    "a cache of nothing": (lambda r: "distil-cache", "give the teacher (--lm) and data"),
    "a cache of text": (lambda r: f"distil-cache --lm {r}/opt --data {r}/text", "holds no prepared data"),
    "windows of nothing": (lambda r: f"distil-cache --lm {r}/opt --data {r}/data --context 1", "context=1"),
    "windows longer than the teacher's": (
        lambda r: f"distil-cache --lm {r}/opt --data {r}/data --context 129",
        "windows of 129 are to be read: give a smaller --context",
    ),
    "a folder of data": (
        lambda r: f"distil-cache --lm {r}/opt --data {r}/data --context 64 --output_dir {r}/data",
        "which distil-cache did not write",
    ),
    "a folder of another teacher": (
        lambda r: (
            f"distil-cache --lm {r}/opt --data {r}/data --context {CONTEXT} --top 300 --output_dir {r}/taught/cache"
        ),
        "teacher_hash: ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(runs, taught, mistake, capsys):
    command, told = MISTAKES[mistake]
    command = command(runs)
    output = "" if "--output_dir" in command else f" --output_dir {taught}/mistake"
    assert told in refused(command + output, capsys)
