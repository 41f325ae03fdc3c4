"""What is typed: words to a verb, a run, a sweep or help."""
