"""Fixtures that several test files share: tiny random models, read-only."""

import signal

import pytest
import torch
from hypothesis import settings
from soak_table import count_tries as count_tries
from soak_table import pytest_collection_modifyitems as pytest_collection_modifyitems
from soak_table import pytest_runtest_logreport as pytest_runtest_logreport
from soak_table import pytest_sessionfinish as pytest_sessionfinish
from tiny import SLLMS, make_mtp, make_opt, make_processor, make_vae

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests send it, and may have been started under nohup
torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
settings.register_profile("default", deadline=None)  # the first example of a test pays for caches
settings.load_profile("default")


@pytest.fixture(scope="session")
def processor():
    return make_processor()


@pytest.fixture(scope="session")
def vae():
    return make_vae()


@pytest.fixture(scope="session")
def opt():
    return make_opt()


@pytest.fixture(scope="session", params=sorted(SLLMS))
def sllm(request):
    """The published decoder (one trunk state), and one that reads three states and the tokens before its sentence."""
    return SLLMS[request.param]()


@pytest.fixture
def mtp():
    return make_mtp()


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions that torch.compile is asked for; they run as they are written. Kernels would take a minute."""
    asked = []

    def as_it_is(function, **settings):
        asked.append(function)
        return function

    monkeypatch.setattr("torch.compile", as_it_is)
    monkeypatch.setattr("lmbase.modeling.compiling._known", {})  # else later tests would get what is made here
    return asked
