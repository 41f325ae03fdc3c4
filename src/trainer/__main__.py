"""`python -m trainer` is the command `train` (and what torchrun starts)."""

from trainer.cli import main

if __name__ == "__main__":
    main()
