"""`python -m trainer` is the command `train` (and what torchrun starts)."""

from trainer.command.main import main

if __name__ == "__main__":
    main()
