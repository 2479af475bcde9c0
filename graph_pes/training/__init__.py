"""Training: losses, optimizers, callbacks, configuration and the loop."""
