"""What a training makes small: criteria, a file for whether they fit a model and data, and what the loop calls."""
