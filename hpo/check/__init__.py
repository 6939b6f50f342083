"""What `gradsweep check` does: one step of everything on a user's problem. Needs torch alone."""
