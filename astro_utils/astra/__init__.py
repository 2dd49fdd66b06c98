"""ASTRA: what its networks see of a galaxy, and what they are asked for."""
