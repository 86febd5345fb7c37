"""What drafting brings and what more heads cost, measured."""
