"""What makes a training fast: compiling."""
