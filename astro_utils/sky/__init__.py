"""A simulated sky that behaves like SDSS: spectra, populations, surveys, images and measurements."""
