"""Children that tests fork, to kill them."""

import threading

from tqdm import tqdm


def own_progress_bars() -> None:
    """Give a child a lock of its own for its progress bars: tqdm's is shared by all that a process forks, and is held
    for ever by one that is killed while it draws."""
    tqdm.set_lock(threading.RLock())
