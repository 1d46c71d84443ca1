"""What is kept of a training: the best epoch, when to stop, checkpoints."""
