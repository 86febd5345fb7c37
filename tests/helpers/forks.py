"""Children that tests fork, to kill them."""

import os
import threading

import pytest
import torch
from tqdm import tqdm


def skip_where_forks_cannot_train() -> None:
    """PyTorch's autograd may have started threads for an earlier test (2.14 built for CUDA does, of a machine without a
    GPU, too), and after that no fork of the process can train."""
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            pytest.skip("autograd has threads in this process, so that its forks cannot train; run this file alone")
        return
    status = 1
    try:
        torch.ones(1, requires_grad=True).sum().backward()
        status = 0
    finally:
        os._exit(status)


def own_progress_bars() -> None:
    """Give a child a lock of its own for its progress bars: tqdm's is shared by all that a process forks, and is held
    for ever by one that is killed while it draws."""
    tqdm.set_lock(threading.RLock())
