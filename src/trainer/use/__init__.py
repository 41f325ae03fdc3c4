"""What a finished run is good for: evaluate, predict, export, load, pack."""
