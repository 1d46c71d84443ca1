"""What a trained model says of samples: predictions with probabilities and names. `Learner.infer` is the way in."""
