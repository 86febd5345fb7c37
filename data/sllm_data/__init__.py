"""From text to training data: corpora are read, cut into sentences, tokenised once, and served in batches."""
