"""What is written about a run: statistics, event files, console."""
