"""`python -m jaxlocal` is the command `jaxlocal`."""

from jaxlocal.app.cli import command

if __name__ == "__main__":
    command()
