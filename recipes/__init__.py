"""One file per job. Run as `sllm NAME` or `python recipes/NAME.py`; imported by nothing but the command line."""
