"""`python -m loss_attention`: the command, for `torchrun -m`, or where no script is on the path."""

from loss_attention.cli import main

if __name__ == "__main__":
    main()
