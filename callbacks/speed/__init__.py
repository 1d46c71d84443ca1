"""What makes a training fast, and where its time goes."""
