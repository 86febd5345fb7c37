"""Speed and memory of SLLMs beside those of their token-level twins."""
