"""Packed weights: a matrix that is stored as several tensors, read as the weights that they stand for."""
