"""Cutting text into sentences, and what turns sentences into ids. Nothing that is imported here brings PyTorch."""

from lmbase.text.lines import MAX_LINE
from lmbase.text.punkt import train_punkt
from lmbase.text.segmentation import RULES, choose_rule, is_open, is_unicode, learn_parameters, segment

__all__ = ["MAX_LINE", "RULES", "choose_rule", "is_open", "is_unicode", "learn_parameters", "segment", "train_punkt"]
