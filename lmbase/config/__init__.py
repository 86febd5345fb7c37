"""Configurations: a dataclass, a YAML file, then `--key value` on the command line."""

from lmbase.config.command_line import (
    config_to_dict,
    differing_keys,
    load_config,
    option,
    run,
    save_config,
    single_process,
)

__all__ = ["config_to_dict", "differing_keys", "load_config", "option", "run", "save_config", "single_process"]
