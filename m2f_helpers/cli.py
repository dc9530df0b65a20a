"""The command line, `m2f`. Every command is a thin layer over one module, imported when the command runs."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="m2f-helpers", prog_name="m2f")
def main() -> None:
    """Mask2Former on ADE20K: check, prepare, train, look."""


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--train", default=48, show_default=True, help="Number of training pairs.")
@click.option("--val", default=16, show_default=True, help="Number of validation pairs.")
@click.option("--domain", type=click.Choice(["day", "dusk"]), default="day", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--size", nargs=2, type=int, default=None, help="Height and width; without it, sizes vary from 300 to 800."
)
def scenes(folder: str, train: int, val: int, domain: str, seed: int, size: tuple[int, int] | None) -> None:
    """Draw a data set in ADE20K's layout into FOLDER, without any download."""
    from m2f_helpers.scenes import make_scenes

    root = make_scenes(folder, train, val, domain, seed, list(size) if size else None)
    click.echo(f"{train} training and {val} validation pairs ({domain}) in {root}")


if __name__ == "__main__":
    main()
