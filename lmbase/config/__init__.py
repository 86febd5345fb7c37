"""Configurations: a dataclass, a YAML file, then `--key value` on the command line."""

from lmbase.config.command_line import Faults, given_on_command_line, load_config
from lmbase.config.options import Decay, Seed, choice_faults, least_faults, option
from lmbase.config.run import class_of_keys, run, single_process
from lmbase.config.yaml_files import config_to_dict, differing_keys, save_config

__all__ = [
    "Decay",
    "Faults",
    "Seed",
    "choice_faults",
    "class_of_keys",
    "config_to_dict",
    "differing_keys",
    "given_on_command_line",
    "least_faults",
    "load_config",
    "option",
    "run",
    "save_config",
    "single_process",
]
