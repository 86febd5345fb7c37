"""Cutting text into sentences, and what turns sentences into ids. Nothing that is imported here brings PyTorch."""

from lmbase.text.punkt import train_punkt
from lmbase.text.segmentation import MAX_LINE, RULES, choose_rule, is_open, is_unicode, segment

__all__ = ["MAX_LINE", "RULES", "choose_rule", "is_open", "is_unicode", "segment", "train_punkt"]
