"""Entry point of `m2f` and of `python -m m2f_helpers`; torchrun needs the second form."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; `check` also works where click is missing."""
    try:
        from m2f_helpers.cli import main as command_line
    except ModuleNotFoundError as error:
        from m2f_helpers.install import environment

        if sys.argv[1:2] == ["check"]:
            sys.exit(environment.main())
        sys.exit(f"m2f: the package {error.name} is missing; `m2f check` says what else is, and how to install it")
    command_line(prog_name="m2f")


if __name__ == "__main__":
    main()
