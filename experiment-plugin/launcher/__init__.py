"""What `bin/mlx` does. Runs on any python3 from 3.9 on, with its standard library alone."""
