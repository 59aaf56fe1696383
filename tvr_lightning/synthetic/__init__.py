"""Data and weights that are generated: shapes, noise, stand-in encoders."""
