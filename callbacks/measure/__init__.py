"""What says how good the model is: metrics and what is recorded."""
