"""The spectral type of a star from one wide-band image: spectra, star catalogues, readers of star files."""
