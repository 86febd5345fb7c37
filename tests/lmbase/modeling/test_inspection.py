"""Damaged and hostile model folders are refused in one sentence, by every way of loading, before anything is built."""

import json
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from families import make_family_heads, make_lm
from safetensors.torch import load_file, save, save_file
from soak import only_in_soak
from tiny import make_opt, make_processor, make_vae

from lmbase.files import write_folder
from lmbase.modeling.pretrained import load_lm
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm import SLLM
from sllm.loading import load_model


def make_sllm():
    return SLLM.graft(make_vae(), make_opt(), max_sentences=16)


KINDS = {
    "opt": (make_opt, load_lm),
    "llama": (make_lm, load_lm),
    "sllm": (make_sllm, SLLM.from_pretrained),
    "heads": (lambda: make_family_heads("opt"), MultiTokenLM.from_pretrained),
    "autoencoder": (make_vae, SentenceVAE.from_pretrained),
}


watched: list[str] = []  # what must not happen, while a test of this file runs
FORBIDDEN = ("socket.connect", "pickle.find_class", "subprocess.Popen", "os.system")


def _watch(event: str, arguments: tuple) -> None:
    code = str(arguments[0]) if event in ("import", "exec", "compile") else ""
    if event in FORBIDDEN or "evil" in code:
        watched.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def nothing_is_run():
    """No code of a folder, no socket, no pickle, no process."""
    watched.clear()
    yield
    assert watched == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind."""
    folders = {}
    for kind, (make, _) in KINDS.items():
        folders[kind] = tmp_path_factory.mktemp("models") / kind
        make().save_pretrained(folders[kind])
        make_processor().tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture(params=KINDS)
def model(request, saved, tmp_path):
    """A copy of a folder of each kind, to damage, and how such a model is loaded."""
    folder = Path(shutil.copytree(saved[request.param], tmp_path / request.param))
    return folder, KINDS[request.param][1]


def edit(folder, name, change):
    """Change a JSON file."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    first = min(name for name in weights if (name.endswith("weight") and "layers.0" in name) or ".h.0" in name)
    change(weights, first)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_trunk(name, value):
    """Of the trunk's configuration, or of the model's own."""

    def change(config):
        inner = config.get("trunk", config)
        inner[name if name in inner else {"num_hidden_layers": "num_decoder_layers"}.get(name, name)] = value

    return change


def in_shards(folder, name):
    """Have an index name `name` as the file of all weights."""
    weights = load_file(folder / "model.safetensors")
    target = folder / name
    (folder / "model.safetensors").rename(target if target.parent.is_dir() else folder / "w.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def linked_out(folder, name):
    (folder / name).rename(folder.parent / f"outside {name}")
    (folder / name).symlink_to(folder.parent / f"outside {name}")


@cache
def many_tensors_of_one_number():
    return save({f"t{i}": torch.zeros(1) for i in range(60_000)})


def many_tensors(folder):
    (folder / "model.safetensors").write_bytes(many_tensors_of_one_number())


# What is done to a folder, and what the message says.
DAMAGE = {
    "B1 a weight is missing": (lambda f: change_weights(f, lambda w, n: w.pop(n)), "lacks 1 weights"),
    "B1 a weight has another shape": (
        lambda f: change_weights(f, lambda w, n: w.update({n: w[n][:-1].clone()})),
        "instead of",
    ),
    "B1 a weight is NaN": (lambda f: change_weights(f, lambda w, n: w[n].fill_(float("nan"))), "NaN"),
    "B1 a weight is infinite": (
        lambda f: change_weights(f, lambda w, n: w[n].view(-1)[:1].fill_(torch.inf)),
        "NaN or inf",
    ),
    "B1 a weight is whole numbers": (
        lambda f: change_weights(f, lambda w, n: w.update({n: w[n].long()})),
        "whole numbers",
    ),
    "B1 a layer less than in the file": (
        lambda f: change_weights(f, lambda w, n: w.update({n.replace("layers.0", "layers.7"): w[n].clone()})),
        "1 weights more",
    ),
    "B1 a layer more than in the file": (
        lambda f: edit(f, "config.json", set_trunk("num_hidden_layers", 4)),
        "lacks",
    ),
    "B4 only pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no weights as safetensors",
    ),
    "weights cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
        "damaged",
    ),
    "E3 an index names a pickle": (lambda f: in_shards(f, "w.bin"), "nothing else"),
    "E3 an index names a file outside": (lambda f: in_shards(f, "../x.safetensors"), "nothing else"),
    "E3 an index names an absolute path": (lambda f: in_shards(f, str(f.parent / "x.safetensors")), "nothing else"),
    "E3 a link leads out": (lambda f: linked_out(f, "model.safetensors"), "link"),
    "E3 a tokenizer is a link": (lambda f: linked_out(f, "tokenizer.json"), "link"),
    "E3 a configuration is a link": (lambda f: linked_out(f, "config.json"), "link"),
    "E3 attention from elsewhere": (
        lambda f: edit(f, "config.json", lambda c: c.update(_attn_implementation="evil/kernel")),
        "never fetched",
    ),
    "E2 code for an unknown model": (
        lambda f: edit(
            f, "config.json", lambda c: c.update(model_type="evil", auto_map={"AutoModelForCausalLM": "evil.M"})
        ),
        "code of its own",
    ),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter"),
    "E10 a billion layers": (
        lambda f: edit(f, "config.json", set_trunk("num_hidden_layers", 10**9)),
        "num_.*=1000000000",
    ),
    "E10 a vocabulary of 10**12": (lambda f: edit(f, "config.json", set_trunk("vocab_size", 10**12)), "vocab_size"),
    "E10 ten million labels": (lambda f: edit(f, "config.json", lambda c: c.update(num_labels=10**7)), "num_labels"),
    "E10 many tensors": (many_tensors, "tensors"),
    "E10 nested without end": (lambda f: (f / "config.json").write_text("[" * 10**5 + "]" * 10**5), "damaged"),
    "E10 no object": (lambda f: (f / "config.json").write_text("[1]"), "no JSON object"),
    "E10 words for numbers": (
        lambda f: edit(f, "config.json", set_trunk("vocab_size", "seven")),
        "vocab_size|seven|'str'",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_refused_in_one_sentence(model, what):
    folder, load = model
    damage, message = DAMAGE[what]
    (folder / "evil.py").write_text("import sys\nsys.exit('the code of the folder ran')\n")
    damage(folder)
    started = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value) or "cannot be built" in str(caught.value)
    assert time.monotonic() - started < 5


def long_header(folder):
    """A header that says that it is nearly as long as the file, which is sparse."""
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(2**32)
        file.write((2**32 - 100).to_bytes(8, "little"))


def long_text(folder):
    edit(folder, "tokenizer.json", lambda t: t["model"].update(vocab={"a" * i: i for i in range(4000)}))


WORST = {what: damage for what, (damage, _) in DAMAGE.items() if what.startswith("E10")}
WORST |= {"E10 a header without end": long_header, "E10 a vocabulary of long words": long_text}
LOAD = """
import resource, sys, time
from sllm.loading import load_model
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_model(sys.argv[1])
before, began = peak(), time.monotonic()
try:
    load_model(sys.argv[2])
    told = "loaded"
except ValueError as error:
    told = "refused"
print(told, peak() - before, time.monotonic() - began)
"""


@only_in_soak
@pytest.mark.parametrize("kind", ["opt", "sllm"])
@pytest.mark.parametrize("what", WORST)
def test_E10_the_worst_take_little_memory_and_time(saved, tmp_path, kind, what):
    folder = Path(shutil.copytree(saved[kind], tmp_path / "hostile"))
    WORST[what](folder)
    size = sum(path.stat().st_blocks * 512 for path in folder.iterdir())  # on the disk
    done = subprocess.run(
        [sys.executable, "-c", LOAD, saved[kind], folder], capture_output=True, text=True, timeout=300
    )
    watched.clear()  # this process
    assert done.returncode == 0, done.stderr
    _, num_bytes, seconds = done.stdout.split()
    assert int(num_bytes) < size + 500e6
    assert float(seconds) < 5


def test_E4_one_flipped_bit_is_found_by_every_way_of_loading(model):
    folder, load = model
    whole = folder.parent / "whole"
    write_folder(whole, lambda target: shutil.copytree(folder, target, dirs_exist_ok=True))
    load(str(whole))
    data = bytearray((whole / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (whole / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        load(str(whole))
    if load is not load_lm:
        load(str(whole), verify=False)


def test_E2_a_tokenizer_that_wants_to_run_code(model):
    folder, _ = model
    (folder / "evil.py").write_text("import sys\nsys.exit('the code of the folder ran')\n")
    edit(
        folder,
        "tokenizer_config.json",
        lambda c: c.update(auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T"),
    )
    with pytest.raises(ValueError, match="code of its own"):
        load_model(str(folder))
    assert not any("evil" in name for name in sys.modules)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}),
            "rewrites",
        ),
        (lambda t: t.update(normalizer={"type": "Prepend", "prepend": "a" * 99}), "rewrites"),
        (
            lambda t: t.update(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
                        t["pre_tokenizer"],
                    ],
                }
            ),
            "take forever",
        ),
        (lambda t: t.pop("model"), "(?i)no tokenizer"),
        (lambda t: t.update(added_tokens=7), "no tokenizer|damaged"),
    ],
    ids=["a normaliser that grows texts", "one that prepends", "a catastrophic pattern", "no model", "wrong types"],
)
def test_E10_a_tokenizer_that_would_take_forever_or_fill_the_memory(saved, tmp_path, change, message):
    folder = Path(shutil.copytree(saved["sllm"], tmp_path / "sllm"))
    edit(folder, "tokenizer.json", change)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


def test_G7_a_run_is_taken_for_its_model_and_another_kind_is_named(saved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved["sllm"], run / "model")
    assert isinstance(SLLM.from_pretrained(run), SLLM)
    with pytest.raises(ValueError, match="type 'sllm'; 'sentence_vae' is needed"):
        SentenceVAE.from_pretrained(run)


def test_B1_who_asks_for_the_loading_info_judges_himself(saved, tmp_path):
    folder = Path(shutil.copytree(saved["sllm"], tmp_path / "sllm"))
    change_weights(folder, lambda w, n: w.pop(n))
    _, found = SLLM.from_pretrained(folder, output_loading_info=True)
    assert len(found["missing_keys"]) == 1


def test_B4_attention_can_be_chosen(model):
    folder, load = model
    if load is not load_lm:
        for way in ("sdpa", "eager"):
            assert load(str(folder), attn_implementation=way).config._attn_implementation == way
