"""Made-up tasks with exact answers (arXiv 2404.19737, section 4)."""
