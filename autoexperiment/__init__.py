"""A lab for unattended machine-learning experiments on Apple's MLX."""

__version__ = "0.1.0"
