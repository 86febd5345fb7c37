"""One of several processes that `torchrun` started."""

import atexit
import os
import sys


def leave_processes() -> None:
    """End this process if it is one of a group whose work is done.

    An ordinary end is not safe: now and then PyTorch's own threads abort it (2.11 and 2.13, gloo), and torchrun would
    report a finished run as failed.
    """
    if "torch" not in sys.modules:
        return
    import torch  # here, because a command line must not wait for it

    if not torch.distributed.is_initialized():
        return
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
