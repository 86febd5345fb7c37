"""The measures that are promises. Exceptions are named here, so that a new one is a decision."""

import measures
from rooms import hidden_imports, import_circle, read_modules
from ways import ways


def test_no_circle_and_no_hidden_import():
    sources = read_modules()
    assert import_circle(sources) == []
    assert [name for name, source in sources.items() if hidden_imports(source)] == []


def test_files_and_functions_are_short():
    assert measures.long_files() == []
    assert measures.long_functions() == []


def test_functions_have_few_arguments():
    assert measures.wide_functions()[0] == []


def test_nothing_asks_what_kind_a_model_is():
    """Transformers' way to say how a model's own parameters begin is the exception."""
    assert {place.partition(":")[0] for place in measures.isinstance_of_models()} <= {"sllm/modeling_sllm.py"}


def test_the_files_of_a_way_are_found_in_order():
    prepare, train, generate = ways().values()
    assert prepare[:2] == ["data/sllm_data/corpora.py", "data/sllm_data/readers.py"]
    assert train[0] == "data/sllm_data/datasets.py"
    assert train[-1] == "lmbase/modeling/losses.py"
    assert {"sllm/sllm.py", "sentencevae/decoder.py"} <= set(generate)


def test_every_module_that_holds_logic_has_a_test_file_of_its_name():
    """Where a reader of a module looks for what it promises; `measures.test_file` says where that is."""
    assert measures.untested() == []


def test_a_test_file_mirrors_the_rooms():
    assert measures.test_file("sllm/evaluation/kinds.py") == measures.ROOT / "tests/sllm/evaluation/test_kinds.py"
    assert measures.test_file("data/sllm_data/readers.py") == measures.ROOT / "tests/sllm_data/test_readers.py"
    assert measures.test_file("data/build_jsonl.py") == measures.ROOT / "tests/sllm_data/test_build_jsonl.py"


def test_a_module_that_only_imports_holds_no_logic():
    assert not measures.holds_logic("sllm/__init__.py")
    assert measures.holds_logic("sllm/sllm.py")
