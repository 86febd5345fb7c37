"""PyTorch parts that every model here is made of: trunk, attention, caches, losses, decoding."""
