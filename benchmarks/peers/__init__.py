"""Four examples, trained by this library and by others; `benchmarks/lengths.py` measures how long each is.

Each file has a function for each framework, which takes the model of the example or its parts, its loader and the
number of epochs, and trains in the way of that framework's own documentation. All of them draw the same random numbers
and end at the same weights.
"""
