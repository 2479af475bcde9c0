"""Building blocks of models: radial bases, envelopes, perceptrons, values per element."""
