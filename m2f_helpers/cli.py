"""The command line, `m2f`. Every command is a thin layer over one module, imported when the command runs."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="m2f-helpers", prog_name="m2f")
def main() -> None:
    """Mask2Former on ADE20K: check, prepare, train, look."""


if __name__ == "__main__":
    main()
