"""What goes on inside: activations, gradients, and where NaN came from."""
