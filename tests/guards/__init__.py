"""Proof that tests can fail: each guard is taken out of a copy of the project, and its test must notice."""
