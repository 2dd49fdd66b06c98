"""K-corrections: real galaxies, what their k-correction is, and what can be known of it from how much."""
