"""Building an experiment and running it, once or many times."""
