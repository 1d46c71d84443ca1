"""What a person sees while a training runs: progress and logs."""
