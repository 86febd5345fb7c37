"""YAML files: what is read, what is refused, and what keeps a saved run from going on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_config import Config, Inner, write

from lmbase.config import differing_keys, load_config, save_config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "key: value"),
        ("model: a\nmodel: b", "model: given twice, again"),
        ("\x00", "YAML"),
    ],
)
def test_broken_yaml_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(Config, [write(tmp_path / "broken.yaml", text)])
    assert "broken.yaml" in str(error.value)


def test_yaml_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("model: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml"):
        load_config(Config, [str(path)])


def test_a_folder_in_place_of_a_configuration_is_told_with_its_key(tmp_path):
    with pytest.raises(ValueError, match=f"is a folder, .* --model {tmp_path} or --data {tmp_path} for instance"):
        load_config(Config, [str(tmp_path)], tmp_path)


def test_shipped_configs_are_found_by_name(tmp_path):
    write(tmp_path / "vae_tiny.yaml", "model: shipped")
    for name in ("vae_tiny", "vae-tiny", "vae_tiny.yaml"):
        assert load_config(Config, [name], tmp_path).model == "shipped"
    with pytest.raises(ValueError, match="did you mean vae_tiny"):
        load_config(Config, ["vae_tinny"], tmp_path)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Config,
        data=st.text(min_size=1) | st.lists(st.text(min_size=1), min_size=1),
        model=st.text(min_size=1),
        tokenizer=st.none() | st.text(min_size=1),
        inner=st.builds(Inner, rate=NUMBERS),
        names=st.lists(st.text(min_size=1)),
        betas=st.tuples(NUMBERS, NUMBERS),
    )
)
def test_a_saved_configuration_reads_back_the_same(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save_config(config, path)
    again = load_config(Config, [str(path)])
    assert again == config
    assert differing_keys(config, path) == []


def test_a_key_that_a_saved_run_does_not_know_has_its_default(tmp_path):
    """A run of an earlier version goes on under a later one, unless a new key changes it."""
    path = tmp_path / "config.yaml"
    path.write_text("{}\n", encoding="utf-8")
    assert differing_keys(load_config(Config, []), path) == []


def test_differing_keys_leave_out_what_may_differ(tmp_path):
    save_config(load_config(Config, []), tmp_path / "config.yaml")
    new = load_config(Config, ["--log_every", "3", "--inner.width", "9"])
    assert differing_keys(new, tmp_path / "config.yaml") == ["inner.width: 3 -> 9"]


def test_a_run_saved_under_a_key_s_other_name_goes_on(tmp_path):
    path = tmp_path / "config.yaml"
    write(path, "net: large\ninner: {breadth: 5}\n")
    same = load_config(Config, ["--model", "large", "--inner.width", "5"])
    assert load_config(Config, [str(path)]) == same
    assert differing_keys(same, path) == []
    assert differing_keys(load_config(Config, []), path) == ["model: 'large' -> 'tiny'", "inner.width: 5 -> 3"]
    save_config(same, path)
    assert "net" not in path.read_text(encoding="utf-8")


def test_a_file_with_both_names_of_a_key_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.yaml: `net=` beside `model=`"):
        load_config(Config, [write(tmp_path / "a.yaml", "model: small\nnet: large\n")])


def test_a_file_that_was_written_by_hand_is_kept(tmp_path, capsys):
    path, config = tmp_path / "config.yaml", load_config(Config, [])
    for _ in range(2):
        save_config(config, path)
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
    saved, mine = path.read_text(), "# tried on Monday\nname: mine\n"
    path.write_text(mine)
    save_config(config, path)
    assert path.read_text() == saved
    assert (tmp_path / "config.yours.yaml").read_text() == mine
    assert "kept as config.yours.yaml" in capsys.readouterr().out
