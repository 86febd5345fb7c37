"""`sllm merge-delta`: TUNED - BASE reaches the trunk exactly, all else stays, and what does not fit is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import refused, sllm
from tiny import CAP, LM_WIDTH, make_lm, make_mtp, make_processor, make_vae

from lmbase.files import MANIFEST, verify_folder
from lmbase.modeling.pretrained import load_lm
from lmbase.modeling.trunk import input_table
from lmbase.text.tokenizers import load_tokenizer
from lmbase.training.cost import read_training, write_training
from sllm import SLLM
from sllm_recipes.merge_delta import Delta, counterparts

SHAPES = ("opt-350m", "gpt2", "llama")
TABLES = ("embed_tokens", "wte", "lm_head")


def save_lm(lm, folder):
    lm.save_pretrained(folder)
    load_tokenizer("bytes").save_pretrained(folder)


def graft(lm, **options):
    return SLLM.graft(make_vae(hidden_size=LM_WIDTH), lm, max_sentences=16, **options)


def changed(lm, seed=3, std=0.05, tables=False):
    """The same model after some post-training, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if tables or not any(table in name for table in TABLES):
                weight += std * torch.randn(weight.shape, generator=generator)
    return lm


@pytest.fixture(scope="module", params=SHAPES)
def made(request, tmp_path_factory):
    """BASE, TUNED (with BASE's table), and the graft of BASE, as folders."""
    folder = tmp_path_factory.mktemp("delta")
    lm = make_lm(request.param)
    save_lm(lm, folder / "base")
    graft(lm).save_pretrained(folder / "sllm")
    save_lm(changed(lm), folder / "tuned")
    return folder


@pytest.fixture
def merge(made, tmp_path):
    def merge(model="sllm", base="base", tuned="tuned", more="", out="out"):
        sllm(
            f"merge-delta {made / model} --from {made / base} --to {made / tuned} --output_dir {tmp_path / out} {more}"
        )
        return tmp_path / out

    return merge


def weights(run):
    folder = run / "model" if (run / "model").is_dir() else run
    return {name: its for path in folder.glob("*.safetensors") for name, its in load_file(path).items()}


def same_bits(these, those):
    assert these.keys() == those.keys()
    assert all(its.dtype == those[name].dtype for name, its in these.items())
    assert [n for n in these if not torch.equal(these[n].view(torch.uint8), those[n].view(torch.uint8))] == []


def outside_trunk(found):
    return {name: its for name, its in found.items() if not name.startswith("trunk.")}


def test_a_weight_of_0_changes_no_bit(made, merge):
    same_bits(weights(merge(more="--weight 0")), weights(made / "sllm"))


def test_a_weight_of_1_gives_the_graft_of_the_tuned_model(made, merge, tmp_path):
    out = merge()
    graft(load_lm(str(made / "tuned"))).save_pretrained(tmp_path / "wanted")
    same_bits(weights(out), weights(tmp_path / "wanted"))
    verify_folder(out / "model", alone=True)
    assert SLLM.from_pretrained(out).generate(text="Yes. No", max_new_tokens=4).texts  # with its processor


@pytest.mark.parametrize("as_it_wrote", ["the model", "the record"])
def test_the_same_command_goes_on_after_one_that_was_killed(merge, tmp_path, as_it_wrote):
    whole = weights(merge(out="whole"))
    left = tmp_path / "out/.model.0123abcd.partial"  # which a listing does not show
    out = merge() if as_it_wrote == "the model" else tmp_path / "out"
    if as_it_wrote == "the model":
        (out / "model").rename(left)  # config and record came first
    else:
        left.mkdir(parents=True)
    same_bits(weights(merge()), whole)
    assert (out / "config.yaml").is_file()
    assert not left.exists()
    with pytest.raises(SystemExit):
        merge()  # it is whole now
    (out / "model").rename(left)
    with pytest.raises(SystemExit):
        merge(more="--weight 0.5")  # another command's remains stay
    assert left.exists()


def test_the_same_command_goes_on_after_one_that_found_no_room_for_its_last_file(made, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device", str(tmp_path / "out"))

    command = f"merge-delta {made}/sllm --from {made}/base --to {made}/tuned --output_dir {tmp_path}/out"
    with monkeypatch.context() as patch:
        patch.setattr("sllm_recipes.merge_delta.save_config", full)
        assert "No space is left on the disk" in refused(command, capsys)
    assert not any((tmp_path / "out").glob("*"))
    sllm(command)
    verify_folder(tmp_path / "out" / "model", alone=True)
    assert "not empty" in refused(command, capsys)


def test_weights_add(made, merge):
    half, whole = merge(more="--weight 0.5", out="half"), weights(merge(more="--weight 0.75"))
    both = weights(merge(half, more="--weight 0.25", out="both"))
    assert all(torch.allclose(its, both[name], atol=1e-6) for name, its in whole.items())
    assert any(not torch.allclose(its, weights(half)[name], atol=1e-3) for name, its in whole.items())
    same_bits(outside_trunk(whole), outside_trunk(weights(made / "sllm")))


def test_what_was_trained_since_stays(made, merge, tmp_path):
    model = changed(SLLM.from_pretrained(made / "sllm"), seed=9, tables=True)
    model.save_pretrained(tmp_path / "trained")
    before, base, tuned = weights(tmp_path / "trained"), weights(made / "base"), weights(made / "tuned")
    after = weights(merge(tmp_path / "trained", more="--weight=-2"))
    norm = next(name for name in base if name.endswith("fc1.bias") or "c_fc.bias" in name or "norm.weight" in name)
    own = "trunk." + norm.partition(".")[2]
    assert torch.allclose(after[own], before[own] - 2 * (tuned[norm] - base[norm]), atol=1e-6)


def test_a_plain_model_becomes_the_tuned_one_with_its_table(made, merge, tmp_path):
    save_lm(changed(load_lm(str(made / "base")), tables=True), tmp_path / "all")
    same_bits(weights(merge("base", tuned=tmp_path / "all")), weights(tmp_path / "all"))


# -- of one family -----------------------------------------------------------------------------------------------------

one = pytest.mark.parametrize("made", ["llama"], indirect=True)


@one
def test_weights_stay_in_their_dtype_and_their_files(made, merge, tmp_path):
    model = SLLM.from_pretrained(made / "sllm", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    out = merge(tmp_path / "shards")
    names = sorted(path.name for path in (out / "model").glob("*.safetensors"))
    assert names == sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(names) > 1
    assert {its.dtype for its in weights(out).values()} == {torch.bfloat16}
    rounded = graft(load_lm(str(made / "tuned"))).bfloat16().state_dict()
    same_bits(weights(out), {name: rounded[name] for name in weights(out)})
    same_bits(weights(merge(tmp_path / "shards", more="--weight 0", out="zero")), weights(tmp_path / "shards"))


@one
def test_the_table_of_an_autoencoder_that_began_as_the_models(made, merge, tmp_path, capsys):
    lm = load_lm(str(made / "base"))
    model = graft(lm)
    with torch.no_grad():
        model.autoencoder.embed_tokens.weight.copy_(input_table(lm))
    model.save_pretrained(tmp_path / "same-table")
    save_lm(changed(lm, tables=True), tmp_path / "all")
    found = weights(merge(tmp_path / "same-table", tuned=tmp_path / "all", more="--table"))
    assert torch.equal(found["autoencoder.embed_tokens.weight"], input_table(lm))
    merge(tmp_path / "same-table", tuned=tmp_path / "all", out="without")
    assert "no place for that of embed_tokens.weight" in capsys.readouterr().out
    told = refused(
        f"merge-delta {made}/sllm --from {made}/base --to {made}/tuned --table --output_dir {tmp_path}/no", capsys
    )
    assert "table=true" in told
    assert not any((tmp_path / "no").iterdir())


@one
@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("opt", True)])
def test_a_graft_by_own_layers_becomes_that_of_the_tuned_model_with_its_tables(merge, tmp_path, family, tied):
    lm = make_lm(family, tie_word_embeddings=tied)
    for name in ("base", "tuned"):
        save_lm(lm if name == "base" else changed(lm, tables=True), tmp_path / name)
        model = SLLM.graft_own_layers(lm, CAP, lower_layers=0, upper_layers=1, max_sentences=2)
        model.processor = make_processor()
        model.save_pretrained(tmp_path / f"sllm-{name}")
    found = merge(tmp_path / "sllm-base", tmp_path / "base", tmp_path / "tuned")
    same_bits(weights(found), weights(tmp_path / "sllm-tuned"))


@one
def test_the_record_of_training_names_all_that_it_rests_on(made, merge):
    for name, parents in (("base", []), ("tuned", [made / "base"]), ("sllm", [made / "base"])):
        write_training(made / name, 10, 1.0, 2.0, list(map(str, parents)))
    record = read_training(merge())
    assert record is not None
    assert {run.name for run in record.runs().values()} == {"out", "base", "tuned", "sllm"}
    assert record.total_tokens == 30


@one
def test_what_does_not_fit_is_refused(made, tmp_path, capsys):
    save_lm(make_lm("llama", num_hidden_layers=1), tmp_path / "shallow")
    save_lm(make_lm("qwen2"), tmp_path / "qwen2")
    save_lm(make_lm("llama", feed_forward=48), tmp_path / "narrow")
    save_lm(make_lm("llama", num_attention_heads=8), tmp_path / "heads")
    save_lm(make_lm("llama", rope_theta=500.0), tmp_path / "rotation")
    make_vae(hidden_size=LM_WIDTH).save_pretrained(tmp_path / "vae")
    mtp = make_mtp(lm=make_lm("llama"))
    mtp.tokenizer = make_processor().tokenizer
    mtp.save_pretrained(tmp_path / "mtp")
    shutil.copytree(made / "tuned", tmp_path / "words")
    path = tmp_path / "words" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content), encoding="utf-8")
    base = made / "base"
    cases = {
        "layers 1, not 2": ("sllm", base, tmp_path / "shallow"),
        "family qwen2, not llama": ("sllm", base, tmp_path / "qwen2"),
        "family llama, not qwen2": ("sllm", tmp_path / "qwen2", tmp_path / "qwen2"),
        "(32, 64), (32, 64), (32, 48)": ("sllm", base, tmp_path / "narrow"),
        "heads 8, not 4": ("sllm", base, tmp_path / "heads"),
        "rotation {": ("sllm", base, tmp_path / "rotation"),
        "another tokenizer": ("sllm", base, tmp_path / "words"),
        "is an autoencoder": (tmp_path / "vae", base, base),
        "is a multi-token model": (tmp_path / "mtp", base, base),
        "no plain language model but a 'sllm'": ("sllm", base, "sllm"),
        "random:llama-tiny": ("sllm", "random:llama-tiny", base),
        "no-such-folder": ("sllm", tmp_path / "no-such-folder", base),
        "Three models": ("sllm", "", base),
    }
    for told, (model, before, after) in cases.items():
        words = [made / word if word == "sllm" else word for word in (model, before, after)]
        command = "merge-delta {} --from={} --to={}".format(*words)
        message = refused(f"{command} --output_dir {tmp_path}/out", capsys)
        assert told in " ".join(message.split()), (told, message)
    whole = f"merge-delta {made}/sllm --from {made}/base --to {made}/tuned --output_dir {tmp_path}/out"
    for weight, told in (("inf", "finite"), ("nan", "finite"), ("1e39", "infinite numbers")):
        assert told in refused(f"{whole} --weight {weight}", capsys)
    assert not (tmp_path / "out" / "model").exists()
    for folder in ("sllm", "base", "tuned"):  # nothing is written over what it is made from
        assert "not empty" in refused(f"{whole.rpartition(' ')[0]} {made / folder}", capsys)


@one
def test_a_trunk_with_other_weights_is_refused(made, tmp_path, capsys):
    shutil.copytree(made / "sllm", tmp_path / "sllm", ignore=shutil.ignore_patterns(MANIFEST))
    lm = load_lm(str(made / "base"))
    path = tmp_path / "model.safetensors"
    kept = load_file(made / "sllm" / "model.safetensors")
    for change in ({"trunk.norm.weight": None}, {"trunk.layers.0.adapter.weight": torch.ones(2)}):
        save_file({k: v for k, v in {**kept, **change}.items() if v is not None}, path)
        with pytest.raises(ValueError, match=f"{next(iter(change))[6:]} the first"):
            counterparts(tmp_path, Delta(lm, lm, 1.0), True, False)
