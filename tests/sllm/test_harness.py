"""Every kind of model in lm-evaluation-harness: as its registry finds it, on local tasks, without a network."""

import json
import math
import runpy
from importlib import metadata

import pytest
from families import MAKERS
from tiny import make_processor, make_vae

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model, model_registry  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from lmbase.text.codec import MissingTokenError, TokenCodec  # noqa: E402
from sllm.harness import HarnessLM  # noqa: E402
from sllm.loading import load_model  # noqa: E402

TEXTS = ["One, two, three. Four and five! Six.", "na\u00efve \U0001f989 text, so.", "x" * 90]
QUESTIONS = [
    ("He left. Then", [" she", " it went.", "."], 0),
    ("Who? ", ["a", "\U0001f989", "c"], 1),
    ("", ["b", "cc"], 1),
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
"""
ROLLING = 'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]\n'
CHOICE = 'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
WRITING = """doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of each kind, and tasks."""
    folder = tmp_path_factory.mktemp("harness")
    for name, make in (MAKERS | {"vae": lambda family: make_vae()}).items():
        make("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    keys = ("question", "choices", "answer")
    records: dict[str, list[dict]] = {
        "text": [{"text": text} for text in TEXTS],
        "asked": [dict(zip(keys, q, strict=True)) for q in QUESTIONS],
    }
    for name, found in records.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    for name, file, kind, rest in (
        ("our_text", "text", "loglikelihood_rolling", ROLLING),
        ("our_choice", "asked", "multiple_choice", CHOICE),
        ("our_writing", "asked", "generate_until", WRITING),
    ):
        head = TASK.format(name=name, file=folder / f"{file}.jsonl", kind=kind)
        (folder / f"{name}.yaml").write_text(head + rest)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def ask(lm, method, *args):
    found = [Instance(method, {}, one, i) for i, one in enumerate(args)]
    return getattr(lm, method)(found, disable_tqdm=True)


def test_tasks_are_evaluated_and_bits_per_byte_are_ours(folder, name):
    lm = HarnessLM(str(folder / name), batch_size=2, device="cpu")
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(
        model=lm, tasks=["our_text", "our_choice", "our_writing"], task_manager=tasks, bootstrap_iters=0
    )
    own = load_model(str(folder / name)).score(TEXTS, 100)["full window"]
    bits = sum(d.nats for d in own) / sum(d.num_bytes for d in own) / math.log(2)
    assert done["results"]["our_text"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    assert 0 <= done["results"]["our_choice"]["acc,none"] <= 1
    assert done["results"]["our_writing"]["exact_match,none"] in (0, 1 / 3)
    assert done["config"]["model_num_parameters"] == lm.loaded.num_parameters


def test_answers_stand_in_the_order_of_the_requests(folder, name):
    lm = HarnessLM(str(folder / name), batch_size=2, device="cpu")
    pairs = [(text[:3], text[3:i]) for text in TEXTS for i in (4, 30, 9)]
    together = ask(lm, "loglikelihood", *pairs)
    alone = [ask(lm, "loglikelihood", pair)[0] for pair in pairs]
    assert [one[0] for one in together] == pytest.approx([one[0] for one in alone], rel=1e-4)
    assert ask(lm, "loglikelihood", ("He left. ", "")) == [(0.0, True)]
    assert all(value < 0 and isinstance(greedy, bool) for value, greedy in together)


def test_a_character_without_tokens_costs_its_own_request_only(folder, name, monkeypatch, caplog):
    """SmolLM2 has no tokens for some control characters."""
    spelled = TokenCodec.encode_batch

    def encode_batch(self, texts):
        if any("\x01" in text for text in texts):
            raise MissingTokenError("no tokens for '\\x01'")
        return spelled(self, texts)

    monkeypatch.setattr(TokenCodec, "encode_batch", encode_batch)
    lm = HarnessLM(str(folder / name), batch_size=4, device="cpu")
    pairs = [("He", " left"), ("He\x01", " left"), ("He", "\x01"), ("He", " was")]
    found = ask(lm, "loglikelihood", *pairs)
    assert found[1] == found[2] == (-math.inf, False)
    assert found[0] == pytest.approx(ask(lm, "loglikelihood", pairs[0])[0])
    assert ask(lm, "loglikelihood_rolling", ("a\x01",), ("ab",))[0] == -math.inf
    assert ask(lm, "generate_until", ("a\x01", {"max_gen_toks": 3})) == [""]
    assert "no tokens for '\\x01'" in caplog.text


def test_half_a_character_in_a_request_ends_no_run(folder, name, caplog):
    lm = HarnessLM(str(folder / name), batch_size=4, device="cpu")
    pairs = [("He", " left"), ("He\ud800", " left"), ("He", "\udc00")]
    found = ask(lm, "loglikelihood", *pairs)
    assert found[1:] == [(-math.inf, False)] * 2
    assert found[0] == pytest.approx(ask(lm, "loglikelihood", pairs[0])[0])
    assert ask(lm, "loglikelihood_rolling", ("a\ud800",), ("ab",))[0] == -math.inf
    assert ask(lm, "generate_until", ("a\ud800", {"max_gen_toks": 3})) == [""]
    assert "Lone surrogate U+D800 at character" in caplog.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": "0.5"}, "temperature='0.5': give a number, without quotes"),
        ({"do_sample": "false"}, "do_sample='false': give True or False"),
        ({"until": 5}, "number 0 is 5, which is a int; give a text"),
    ],
)
def test_what_a_task_quotes_wrongly_is_told(folder, name, settings, told):
    """A quoted `false` drew tokens."""
    lm = HarnessLM(str(folder / name), device="cpu")
    with pytest.raises(ValueError, match=told):
        ask(lm, "generate_until", ("He", {"max_gen_toks": 3, **settings}))


def test_what_is_written_ends_before_the_first_stop(folder, name):
    lm = HarnessLM(str(folder / name), device="cpu")
    whole = ask(lm, "generate_until", ("He le", {"max_gen_toks": 12}))[0]
    assert whole
    stop = whole[len(whole) // 2]
    for until in (stop, [stop], ["not there", stop]):
        (text,) = ask(lm, "generate_until", ("He le", {"until": until, "max_gen_toks": 12, "do_sample": False}))
        assert text == whole[: whole.index(stop)]
    drawn = [ask(lm, "generate_until", ("He", {"temperature": 1.0, "seed": 1, "max_gen_toks": 9})) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_a_long_context_loses_its_beginning(folder, name):
    lm = HarnessLM(str(folder / name), device="cpu")
    long, near = "\U0001f989 left, she stayed. " * 12, "\U0001f989 left, she stayed. " * 11
    texts = ask(lm, "generate_until", (long, {"max_gen_toks": 5}), (near, {"max_gen_toks": 5}))
    assert lm.loaded.by_sentence or texts[0] == texts[1]
    if not lm.loaded.by_sentence:
        with pytest.raises(ValueError, match="do not fit 64 positions"):
            ask(lm, "generate_until", ("He", {"max_gen_toks": 200}))


def test_max_length_is_a_window(folder):
    wide, tight = (HarnessLM(str(folder / "plain"), device="cpu", max_length=n) for n in (64, 8))
    text = (TEXTS[2] + TEXTS[0],)
    assert ask(wide, "loglikelihood_rolling", text) != ask(tight, "loglikelihood_rolling", text)
    with pytest.raises(ValueError, match="this model has 64 positions"):
        HarnessLM(str(folder / "plain"), max_length=65)
    with pytest.raises(ValueError, match="an SLLM's window is its max_sentences"):
        HarnessLM(str(folder / "sentences"), max_length=32)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"batch_size": "0"}, "batch_size='0'"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"dtype": "fp8"}, "dtype='fp8' is not known"),
        ({"trust_remote_code": True}, "knows no argument trust_remote_code"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"max_length": "12"}, "max_length='12': this model has 64 positions; give a whole number"),
        ({"max_length": 12.5}, "max_length=12.5: this model"),
        ({"pretrained": None}, "No model is named: give --model_args pretrained=DIR"),
    ],
)
def test_wrong_arguments_are_told(folder, arguments, told):
    with pytest.raises(ValueError, match=told):
        HarnessLM(**({"pretrained": str(folder / "plain")} | arguments))


def test_conversations_are_refused_by_what_the_user_typed(folder):
    """The harness told its users to implement a method."""
    model = HarnessLM(str(folder / "plain"))
    for ask in (
        lambda: model.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=False),
        lambda: model.chat_template(True),
        lambda: model.tokenizer_name,
    ):
        with pytest.raises(ValueError, match="--apply_chat_template: models here read a text"):
            ask()


def test_an_autoencoder_is_refused(folder):
    with pytest.raises(ValueError, match="is an autoencoder: it predicts no text"):
        HarnessLM(str(folder / "vae"))


def test_dtypes_are_known_by_both_names(folder):
    for dtype in ("bf16", "bfloat16"):
        lm = HarnessLM.create_from_arg_obj(
            {"pretrained": str(folder / "plain"), "dtype": dtype, "device": "cpu", "batch_size": 3},
            {"device": "cuda:7", "batch_size": 1, "max_batch_size": None},
        )
        assert (lm.get_model_info()["model_dtype"], lm.batch_size) == ("torch.bfloat16", 3)


@pytest.mark.filterwarnings("ignore:'sllm.harness' found in sys.modules")
def test_releases_without_plugins_have_a_command_of_ours(monkeypatch):
    """It hands on to the harness's own command, which finds the model."""
    found = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: found.append(get_model("sllm")))
    runpy.run_module("sllm.harness", run_name="__main__")
    assert found == [HarnessLM]
    assert len(model_registry) > 10  # beside its own models


def test_the_entry_point_names_the_class():
    found = [point for point in metadata.entry_points(group="lm_eval.models") if point.name == "sllm"]
    if not found:
        pytest.skip("the package was installed before it had this entry point")
    assert found[0].load() is HarnessLM
