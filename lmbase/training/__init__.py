"""The one training loop: checkpoints, resume, several processes, logs."""
