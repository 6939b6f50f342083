"""Types and helpers for all other packages: trials, errors, text, files, storage. Imports no other package."""
