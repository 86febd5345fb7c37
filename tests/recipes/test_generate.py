"""`sllm generate` with every kind of model on a llama-like trunk, as a user types it."""

import io

import pytest
from families import MAKERS, loaded_as, make_family_heads, make_family_sllm
from small_runs import sllm
from tiny import make_processor
from transformers import TextIteratorStreamer
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from lmbase.config import load_config
from lmbase.text.codec import TokenCodec
from lmbase.text.tokenizers import load_tokenizer
from sllm.evaluation.loaded import Writing
from sllm_recipes import cli
from sllm_recipes.generate import Config, read_prompt
from sllm_recipes.report import ReportConfig


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_and_what_follows_are_streamed_and_told(kinds, name, capsys):
    sllm(f"generate --model {kinds}/{name} --prompt Hello --max_new_tokens 6 --device cpu")
    told = capsys.readouterr()
    assert told.out.startswith("Hello")
    assert " tokens/s), finished by " in told.err
    assert ("tokens per forward pass" in told.err) <= (name != "plain")


def test_a_window_is_kept_while_a_plain_model_writes(kinds, capsys):
    command = f"generate --model {kinds}/plain --prompt_file {kinds}/test.txt --max_new_tokens 20 --min_new_tokens 20"
    texts = []
    for more in ("", " --keep_window 2 --keep_ends punctuation", " --keep_window 2 --keep_ends none"):
        sllm(f"{command} --device cpu --do_sample true --temperature 5.0 --seed 1{more}")
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 3


def test_without_a_model_the_example_writes_and_says_so(capsys):
    command = ["generate", "Once upon a time", "--max_new_tokens", "16", "--device", "cpu"]
    texts = []
    for more in ("--seed 1", "--seed 1", "--seed 2", "--do_sample false", "--model example:sllm"):
        cli.main([*command, *more.split()])
        told = capsys.readouterr()
        assert told.out.startswith("Once upon a time")
        assert len(told.out) > 24
        assert ("example:sllm writes, a small model that comes with the package" in told.err) == ("--model" not in more)
        texts.append(told.out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]  # a model that is named writes the most probable tokens, as ever


def test_a_file_of_keys_is_no_prompt(kinds, tmp_path, capsys):
    (tmp_path / "how.yaml").write_text(f"model: {kinds}/plain\nprompt: Hello\nmax_new_tokens: 2\ndevice: cpu\n")
    sllm(f"generate {tmp_path}/how.yaml")
    assert capsys.readouterr().out.startswith("Hello")


def test_an_assistant_changes_no_text(kinds, capsys):
    command = f"generate --model {kinds}/plain --prompt Hello --max_new_tokens 8 --device cpu"
    sllm(command)
    alone = capsys.readouterr().out
    sllm(f"{command} --assistant {kinds}/sentences")
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model {}/vae", "is an autoencoder: it writes what it read"),
        ("--model {}/heads --assistant {}/sentences", "drafts for a plain token-level model"),
        ("--model {}/plain --assistant {}/sentences --compile", "--compile does not go with --assistant"),
        ("--model {}/sentences --keep_window 4", "is for plain token-level models, and sentences is an SLLM"),
        ("--model {}/heads --keep_window 4", "and heads is a multi-token model: leave it out"),
        ("--model {}/plain --keep_window 4", "--keep_ends punctuation for instance"),
        ("--model {}/plain --keep_window 0 --keep_ends none", "keep_window=0: of the 64 positions"),
        (
            "--model {}/plain --keep_window 4 --keep_ends line --compile",
            "--compile (or cache_implementation) does not go",
        ),
        ("--model {}/plain --device gpu", "known are auto, cpu, cuda"),
    ],
)
def test_mistakes_end_with_a_message(kinds, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        sllm(f"generate --prompt Hello {words.replace('{}', str(kinds))}")
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        (b"The old house stood\n", "The old house stood"),
        (b"Two lines\n\n", "Two lines\n"),
        (b"\xef\xbb\xbfA mark\r\n", "A mark"),
        (b"No end ", "No end "),
        (b"a\r\nb", "a\r\nb"),
    ],
)
def test_D3_a_last_new_line_of_standard_input_is_none_of_the_prompt(raw, prompt, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert read_prompt(Config()) == prompt
    (tmp_path / "prompt.txt").write_bytes(raw)
    assert read_prompt(Config(prompt_file=str(tmp_path / "prompt.txt"))) == prompt
    assert read_prompt(Config(prompt="So\n")) == "So\n"


def test_D3_input_that_is_not_utf_8_is_told(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(ValueError, match=r"standard input is not UTF-8 \(byte 3\)"):
        read_prompt(Config())


@pytest.mark.parametrize("name", MAKERS)
def test_D3_a_space_at_the_end_of_a_prompt_is_warned_of(name, monkeypatch):
    model = loaded_as(MAKERS[name]("llama"))
    for prompt, words, warned in (("the ", True, True), ("the", True, False), ("the ", False, False)):
        monkeypatch.setattr(TokenCodec, "spaces_open_words", words)
        with CaptureLogger(logging.get_logger("transformers.multitoken.request")) as log:
            model.write(prompt, Writing(2))
        assert ("ends in a space" in log.out) == warned


def test_D3_some_tokenizers_put_spaces_in_front_of_words():
    learned = load_tokenizer("bpe:280", lambda: iter(["the old house " * 9]))
    assert TokenCodec(learned).spaces_open_words
    assert not TokenCodec(make_processor().tokenizer).spaces_open_words


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "words", [["--prompt", "none"], ["--prompt=-- he said"], ["--prompt", "Null"], ["--prompt", ""]]
)
def test_D7_a_prompt_is_taken_as_it_is(kinds, name, words, capsys):
    given = ["--model", f"{kinds}/{name}", "--max_new_tokens", "2", "--device", "cpu"]
    cli.main(["generate", *given, *words])
    assert capsys.readouterr().out.startswith(words[-1].removeprefix("--prompt="))


def test_D7_a_prompt_that_begins_with_a_minus_is_no_key(kinds, capsys):
    cli.main(["generate", "-5 degrees", "--model", f"{kinds}/plain", "--max_new_tokens", "2", "--device", "cpu"])
    assert capsys.readouterr().out.startswith("-5 degrees")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prompt", "-- he said"], "--prompt='-- he said'"),
        (["--prompt", "--"], "--prompt=--"),
        (["--prompt", "The", "old", "house"], "--prompt='The old house'"),
        (["--prompt", "So", "--", "he", "--max_new_tokens", "3"], "--prompt='So -- he'"),
    ],
)
def test_D7_a_prompt_that_is_not_one_word_is_told_in_one_sentence(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["generate", *words])
    assert stopped.value.code == 2
    _, line, *rest = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert len(rest) == 1  # how to see more


def test_D8_a_prompt_beyond_the_positions_names_the_limit_and_the_remedy(kinds, capsys):
    words = ["generate", "--model", f"{kinds}/sentences", "--device", "cpu", "--max_new_tokens", "3"]
    words += ["--prompt", "Yes! " * 64 + "No"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "has 64 sentences, and the trunk has positions for 63: --overflow slide" in capsys.readouterr().err
    cli.main([*words, "--overflow", "slide"])
    assert "3 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "mistake", [dict(prompt="\ud800"), dict(how=dict(num_draft="abc")), dict(settings=dict(top_p=90))]
)
def test_D10_a_streamer_is_told_the_end_also_where_writing_fails(name, mistake):
    loaded = loaded_as(MAKERS[name]("llama"))
    streamer = TextIteratorStreamer(loaded.tokenizer, timeout=5, skip_special_tokens=True)
    how = Writing(3, settings=mistake.get("settings", {}), **mistake.get("how", {}))
    with pytest.raises(ValueError):
        loaded.write(mistake.get("prompt", "Hello"), how, streamer)
    assert list(streamer) == [""]
    loaded.write("Hello", Writing(3), streamer)
    assert "".join(streamer).startswith("Hello")
    assert streamer.text_queue.empty()


@pytest.mark.parametrize("make", [make_family_heads, make_family_sllm])
@pytest.mark.parametrize(
    "given", [dict(text="Hello", top_p=90), dict(text=["a", "b"]), dict(text=[]), dict(text="\ud800")]
)
def test_D10_also_by_the_models_themselves(make, given):
    model = make()
    streamer = TextIteratorStreamer(make_processor().tokenizer, timeout=5)
    with pytest.raises(ValueError):
        model.generate(streamer=streamer, **given)
    assert list(streamer) == [""]


@pytest.mark.parametrize("recipe", ["generate", "audit", "evaluate", "benchmark"])
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "tpu"])
def test_G5_a_device_that_is_not_there_is_told_in_one_sentence(kinds, recipe, device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    (tmp_path / "test.txt").write_text("One, two, three. Four and five! Six.")
    words = {
        "generate": f"--model {kinds}/plain --prompt Hello",
        "audit": f"--model {kinds}/plain --data {tmp_path}/test.txt",
        "evaluate": f"--model {kinds}/plain --data {tmp_path}/test.txt --output_dir {tmp_path}/out",
        "benchmark": f"--output_dir {tmp_path}/out",
    }
    with pytest.raises(SystemExit) as stopped:
        sllm(f"{recipe} {words[recipe]} --device {device}")
    assert stopped.value.code == 2
    assert f"device = '{device}', but here there is only 'cpu'" in capsys.readouterr().err


def test_stop_strings_and_titles_are_taken_as_they_stand():
    asked = load_config(Config, ["--stop_strings", "[END]", "None", "---"])
    assert asked.stop_strings == ["[END]", "None", "---"]
    assert load_config(ReportConfig, ["--title=-- so"]).title == "-- so"
