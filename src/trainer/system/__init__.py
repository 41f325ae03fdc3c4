"""What the machine, its system and its terminal are and can do; what is asked of nobody else."""
