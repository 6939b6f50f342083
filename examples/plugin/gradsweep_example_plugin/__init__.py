"""A problem for gradsweep in a package of its own."""
