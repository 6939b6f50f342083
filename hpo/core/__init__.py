"""What every other package may use: trials, errors, text, files and storage. Imports nothing else of gradsweep."""
