"""The checks of `gradsweep check`: one step of everything on a user's problem. Needs torch alone."""
