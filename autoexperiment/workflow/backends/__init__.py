"""What can train and evaluate in the train-and-evaluate workflow; base.py says what a backend is."""
