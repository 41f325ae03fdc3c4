"""Tables as people have them: read from several kinds of files, then made into numbers."""
