"""The typed config: keys and their rules, whose classes are trusted, what was asked for. Imports no torch."""
