"""The checks of `gradsweep check`: one step of everything on a user's problem. Depends only on torch."""
