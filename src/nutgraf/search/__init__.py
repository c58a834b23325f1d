"""Run and choose hyperparameter trials."""
