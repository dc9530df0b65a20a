"""The command line, `m2f`. Every command is a thin layer over one module, imported when the command runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from m2f_helpers.quiet import one_line, quiet

_FORMATS = "auto, ids, coco, voc, cityscapes, labelme, colors, binary"


class Door(click.Group):
    """The one door out: a predictable fault leaves as one sentence with exit status 1, and so does a fault of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. With `--debug` every fault keeps its traceback on the screen."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(_predictable(error) or _unforeseen(error)) from error


def _predictable(error: Exception) -> str:
    """One sentence for a fault that input, machine or installation can cause; empty for any other."""
    text = one_line(error, None)
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"the memory does not suffice ({text}); a smaller --size, --crop or image helps"
    if isinstance(error, OSError):
        from m2f_helpers import files

        return files.sentence(error)
    if isinstance(error, ValueError) and str(error):
        return text
    if isinstance(error, ImportError):
        return f"a library cannot be imported: {text}; `m2f check` says what is wrong and which command mends it"
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):  # Path.resolve, before Python 3.13
        return f"{text}: the link leads back to itself, choose another file or folder"
    if isinstance(error, AssertionError) and "incompatible" in text:  # mmseg and mmdet look at mmcv's version so
        return f"{text}; `m2f check` says which version fits and how to get it"
    if isinstance(error, NotImplementedError) and "MPS" in text:
        return "this device lacks an operation: set PYTORCH_ENABLE_MPS_FALLBACK=1 and call again, or give --device cpu"
    return ""


def _unforeseen(error: Exception) -> str:
    """Keep the traceback in a file, and say where it is and that the fault is the project's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    with tempfile.NamedTemporaryFile("w", prefix="m2f-fault-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(" ".join(sys.argv) + "\n\n" + "".join(traceback.format_exception(error)))
    return (
        f"a fault of this project, not of your input: {type(error).__name__}: {one_line(error)} "
        f"({Path(last.filename).name}, line {last.lineno}). The traceback is in {file.name}: please report it together "
        "with what `m2f check` prints"
    )


def quietly(command: Callable[..., None]) -> Callable[..., None]:
    """For commands that load the libraries: what these say on every run stays off the screen."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        quiet()
        command(*args, **options)

    return run


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of a fault.")
@click.version_option(package_name="m2f-helpers", prog_name="m2f")
def main(debug: bool) -> None:
    """Mask2Former on ADE20K: check, prepare, train, look."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--subset", type=int, help="Unpack only so many training pairs, and a tenth for validation.")
@click.option("--archive", type=click.Path(path_type=Path), help="A local copy of ADEChallengeData2016.zip.")
def ade20k(folder: Path, subset: int | None, archive: Path | None) -> None:
    """Get ADE20K (967 MB): download, check and unpack it into FOLDER. Goes on where it was interrupted."""
    from m2f_helpers.data.download import get_ade20k

    click.echo(f"ADE20K is in {get_ade20k(folder, subset, archive)}")


@main.command()
@click.option("--data", type=click.Path(path_type=Path), help="Check the label maps of this data set instead.")
@click.option("--classes", type=int, help='Number of classes without "other".  [default: from the data]')
@click.option("--zero-is-other/--zero-is-class", default=None, help="Meaning of id 0.  [default: from the data]")
@click.option("--limit", type=int, help="With --data: look at so many pairs per split.")
def check(data: Path | None, classes: int | None, zero_is_other: bool | None, limit: int | None) -> None:
    """Show what is installed, what is wrong, and the command that mends it; or check a data set."""
    if data is None:
        from m2f_helpers.install import environment

        sys.exit(environment.main())
    from m2f_helpers.data.checks import check_data
    from m2f_helpers.data.labels import counted_classes

    report = check_data(data, counted_classes(classes, zero_is_other), limit)
    click.echo(report)
    sys.exit(report.errors > 0)


@main.command()
@click.option("--group", help="Only the claims of this group, for instance 'losses'.")
@click.option("--write-up", is_flag=True, help="What the write-up behind this tutorial said, and what really runs.")
@quietly
def claims(group: str | None, write_up: bool) -> None:
    """Check the statements about Mask2Former on the installed source and a real run (about a minute)."""
    from m2f_helpers.architecture import claims as statements
    from m2f_helpers.architecture.write_up import answers, write_up_text

    if write_up and group:
        raise ValueError(f"--write-up shows all groups, got --group {group}; leave one of the two out")
    checked = statements.check(claims=statements.claims_of(group))
    click.echo(write_up_text(answers(checked)) if write_up else statements.claims_text(checked))
    sys.exit(0 if all(entry.holds for entry in checked) else 1)


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--from", "form", default="auto", show_default=True, metavar="FORMAT", help=f"One of {_FORMATS}.")
@click.option("--classes", help="Names in the order of their ids, a,b,c, or a file with names (and colours, ids).")
@click.option("--map", "mapping", help="What becomes of a category: 4=255,7=car,raod=road (255: ignore).")
@click.option("--ignore", help="Categories to ignore, by name or id: 11,12.")
@click.option("--val", type=float, help="Share of the images that validate.  [default: the source's split, or 0.2]")
@click.option("--group", metavar="REGEX", help="Images in whose path this finds the same text stay in one part.")
def convert(src, dst, form, classes, mapping, ignore, val, group) -> None:
    """Turn a folder of your own (COCO, VOC, Cityscapes, LabelMe, masks of any kind) into DST, ready to train on."""
    from m2f_helpers.data import convert as conversion
    from m2f_helpers.data.formats.mapping import parse_mapping

    pairs = parse_mapping(mapping) if mapping else None
    words = ignore.split(",") if ignore else ()
    click.echo(conversion.convert(src, dst, form, classes, pairs, words, val, group))


@main.group(name="class")
def classroom() -> None:
    """For teachers: editions of the notebooks, grading, and a kit for a room without network."""


@classroom.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", default=45, show_default=True, help="Length of a lesson.")
@click.option("--runs", default="runs", show_default=True, help="Where the teacher's notebooks run.")
@click.option("--zip", "zipped", is_flag=True, help="Pack the student's and the teacher's edition as well.")
def build(out, minutes, runs, zipped) -> None:
    """Make in OUT the editions for students and teachers, slides, handouts, a quiz and a plan, from the notebooks.

    After `m2f run` its outputs in --runs are used and only the solutions run; without it, everything does.
    """
    from m2f_helpers.classroom import editions

    made = editions.build(out, minutes, runs, zipped)
    click.echo(", ".join(f"{count} in {part}/" for part, count in made.items()) + f", plan.md: all in {out}")


@classroom.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", default="grades", show_default=True, help="Folder for grades.csv and the executed notebooks.")
@click.option("--minutes", default=10.0, show_default=True, help="For one submission.")
@click.option("--cell-seconds", default=120, show_default=True, help="For one cell; it is then interrupted.")
@click.option("--memory", default=4.0, show_default=True, help="Gigabytes for all processes of a submission.")
@click.option("--jobs", default=1, show_default=True, help="Submissions graded at the same time.")
def grade(folder, out, minutes, cell_seconds, memory, jobs) -> None:
    """Grade every notebook below FOLDER: one row for each exercise in grades.csv. Goes on where it was stopped.

    Submissions are foreign code. Each runs in a process and an empty folder of its own, with limits of time and memory.
    That stops endless loops, full memory and careless deletions. It does not stop ill will: the code has your rights,
    can read and delete your files and reach the network. For people you do not trust, grade in a container.
    """
    from m2f_helpers.classroom import grading

    rows = grading.grade(folder, out, grading.Limits(minutes, cell_seconds, memory), jobs)
    graded = len({row.file for row in rows})
    click.echo(f"{graded} submissions, {sum(row.points for row in rows)} of {len(rows)} points; {out}/{grading.TABLE}")


@classroom.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--python", "pythons", multiple=True, required=True, help="Version on the laptops; may be repeated.")
@click.option("--platform", "platforms", multiple=True, required=True, help="linux, macos or windows; may be repeated.")
@click.option("--wheel", type=click.Path(path_type=Path), help="This project's wheel.  [default: built here]")
@click.option("--torch-from", help="Index or folder with a CPU build of torch; plain pip takes CUDA's on Linux.")
@click.option("--pages", type=click.Path(path_type=Path), help="Executed notebooks: their pages, with solutions, too.")
def kit(out, pythons, platforms, wheel, torch_from, pages) -> None:
    """Gather in OUT all that laptops need to install and run the tutorial without network or administrator.

    Sizes are told before anything is fetched; a run that broke off goes on when it is called again.
    """
    from m2f_helpers.classroom.kit import build_kit

    made = build_kit(out, pythons, platforms, wheel, torch_from, pages)
    click.echo(f"{len(made)} files, {sum(made.values()) / 1e6:,.0f} MB in {out}; install.sh or install.bat there")


@main.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights; without it, the profile's own.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Data folder with the model's classes.")
@click.option("--profile", default="demo", show_default=True, help="demo or ade20k, for a checkpoint without a config.")
@click.option("--config", type=click.Path(path_type=Path), help="A config file in place of the checkpoint's.")
@click.option("--limit", type=click.IntRange(min=1), help="Look at so many validation images at most.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the scores, 0 to 1, to this file too.")
@click.option("--device", help="cpu, cuda, ...; without it, a GPU if there is one.")
@quietly
def evaluate(checkpoint, data, profile, config, limit, target, device) -> None:
    """Judge a model on the validation images of a data folder: mIoU, every class, the most frequent mistakes."""
    from m2f_helpers import files
    from m2f_helpers.inference import evaluation, models

    result = evaluation.evaluate(models.load_profile(profile, config, checkpoint, device), data, limit=limit)
    click.echo(result)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, json.dumps(result.summary(), indent=2, ensure_ascii=False) + "\n")


@main.command()
@click.argument("name", default="mask2former_r50_8xb2-160k_ade20k-512x512")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the file.  [default: your cache folder]")
@quietly
def fetch(name: str, out: str | None) -> None:
    """Download published weights, verified by the hash in their file name.

    NAME is a config in mmseg's metafile. The environment variable M2F_WEIGHTS may name a local file or a mirror.
    """
    from m2f_helpers import checkpoints

    click.echo(f"{checkpoints.fetch(name, out)}  ({checkpoints.published(name).miou} mIoU as published)")


@main.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("runs"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default="notebooks/figures")
def figures(runs: Path, folder: Path) -> None:
    """Take the README's figures out of the executed notebooks in RUNS and write them to FOLDER."""
    import nbformat

    from m2f_helpers import execution

    for name in execution.find_notebooks([]):
        for path in execution.export_figures(nbformat.read(runs / f"{name}.ipynb", as_version=4), folder):
            click.echo(path)


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--profile", default="demo", show_default=True, help="demo or ade20k, for a checkpoint without a config.")
@click.option("--config", type=click.Path(path_type=Path), help="A config file in place of the checkpoint's.")
@click.option("--trust-config", is_flag=True, help="A config is run as Python code: allow more than assignments.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights; without it, the profile's own.")
@click.option("--alpha", default=0.55, show_default=True, help="Weight of the class colours, 0 to 1.")
@click.option("--device", help="cpu, cuda, ...; without it, a GPU if there is one.")
@quietly
def predict(images, out, profile, config, trust_config, checkpoint, alpha, device) -> None:
    """Segment IMAGES (files or folders): overlays, label PNGs and a table of class shares go to --out.

    Config and classes are those that the checkpoint carries. Label PNGs hold the ids of the label files that it was
    trained on; `id` in the table counts the classes from 0.
    """
    from m2f_helpers.config import as_config
    from m2f_helpers.inference import models, prediction

    config = as_config(config, trust_config) if config else None
    model = models.load_profile(profile, config, checkpoint, device)
    report = prediction.predict(model, images, out, alpha=alpha)
    click.echo(f"{report.table['file'].nunique()} images segmented, {len(report.files)} files in {out}")
    if report.skipped:
        click.echo(f"{len(report.skipped)} results of an earlier predict among the images were left out")
    for note in report.notes:
        click.echo(note)
    for name, reason in report.failed.items():
        click.echo(reason if name in reason else f"{name}: {reason}", err=True)
    sys.exit(1 if report.failed else 0)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("work"))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(folder: Path, options: tuple[str, ...]) -> None:
    """Open JupyterLab on copies of the notebooks in FOLDER (default work), which are yours to change.

    Copies that are there already stay as they are. OPTIONS go to JupyterLab, for instance --port 9000.
    """
    from m2f_helpers import execution

    copied = execution.copy_notebooks(folder)
    click.echo(f"{len(copied)} notebooks copied to {folder}" if copied else f"your notebooks are in {folder}")
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    sys.exit(subprocess.call([sys.executable, "-m", "jupyterlab", *root, *options], cwd=folder))


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--size", nargs=2, type=int, default=(512, 512), show_default=True, help="Height and width in pixels.")
@click.option("--mode", type=click.Choice(["stretch", "crop", "pad"]), default="stretch", show_default=True)
@click.option("--workers", type=int, help="Processes; without it, one per core.")
@click.option("--classes", type=int, help='Number of classes without "other".  [default: from the data]')
@click.option("--zero-is-other/--zero-is-class", default=None, help="Meaning of id 0.  [default: from the data]")
def prepare(src, dst, size, mode, workers, classes, zero_is_other) -> None:
    """Resize the data set SRC into DST. A second run does only what is missing or changed."""
    from m2f_helpers.data import preparation
    from m2f_helpers.data.labels import counted_classes

    report = preparation.prepare(src, dst, list(size), mode, workers, counted_classes(classes, zero_is_other))
    click.echo(report)
    sys.exit(not report.ok)


@main.command()
@click.option("--work", default="runs/pretrain", show_default=True, help="Folder for the images and the run.")
@click.option("--out", default="runs/pretrain/demo_day.pth", show_default=True, help="File to write.")
@click.option("--iterations", default=0, help="Other number of steps than the recipe's.")
@click.option("--device", help="cpu, cuda or mps.  [default: what is there]")
@quietly
def pretrain(work: str, out: str, iterations: int, device: str | None) -> None:
    """Make the demo's weights again: train from nothing on day scenes. Stopped runs go on where they were."""
    from m2f_helpers.finetune import pretraining

    recipe = replace(pretraining.Recipe(), iterations=iterations) if iterations else pretraining.Recipe()
    click.echo(pretraining.pretrain(work, out, recipe, device))


@main.command()
@click.argument("address")
def release(address: str) -> None:
    """Write the public ADDRESS (on GitHub; "" for none) into pyproject.toml, README and notebooks of a checkout."""
    from m2f_helpers.install import release as publishing

    changed = publishing.release(address.rstrip("/"), Path.cwd())
    click.echo("\n".join(map(str, changed)) or "nothing to change")


@main.command()
@click.argument("notebooks", nargs=-1)
@click.option("--profile", default="demo", show_default=True, help="demo (CPU, no network) or ade20k (GPU advised).")
@click.option("--data", type=click.Path(path_type=Path), help="Data in ADE20K's layout; without it, drawn scenes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("-p", "--parameter", "extra", multiple=True, metavar="NAME=VALUE", help="Set another parameter.")
def run(notebooks: tuple[str, ...], profile: str, data: Path | None, out: Path, extra: tuple[str, ...]) -> None:
    """Execute NOTEBOOKS (numbers or names; default all five) and write notebooks, HTML and records.json to --out."""
    from m2f_helpers import execution

    parameters = execution.parse_parameters(extra)
    if not execution.run_notebooks(notebooks, profile=profile, data=data, out=out, parameters=parameters):
        sys.exit(1)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--train", default=48, show_default=True, help="Number of training pairs.")
@click.option("--val", default=16, show_default=True, help="Number of validation pairs.")
@click.option("--domain", type=click.Choice(["day", "dusk"]), default="day", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--size", nargs=2, type=int, help="Height and width; without it, sizes vary from 300 to 800.")
def scenes(folder: str, train: int, val: int, domain: str, seed: int, size: tuple[int, int] | None) -> None:
    """Draw a data set in ADE20K's layout into FOLDER, without any download."""
    from m2f_helpers.data.scenes.dataset import make_scenes

    root = make_scenes(folder, train, val, domain, seed, list(size) if size else None)
    click.echo(f"{train} training and {val} validation pairs ({domain}) in {root}")


@main.command()
@click.option("--profile", default="demo", show_default=True, help="demo or ade20k.")
@click.option("--data", help="Data folder (ADE20K layout, or images/ and labels/).  [default: drawn scenes]")
@click.option("--classes", metavar="NAMES", help='"sky,road,car" in place of the names in the folder.')
@click.option("--out", default="runs/finetune", show_default=True, help="Output folder.")
@click.option("--weights", help="Checkpoint to start from, or 'random'.  [default: the profile's]")
@click.option("--iterations", default=0, help="Steps; 0 takes the profile's number.")
@click.option("--crop", type=int, nargs=2, default=(0, 0), help="Height and width of the training crop, pixels.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step.  [default: the profile's]")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, mps.  [default: the fastest there is]")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--accept-changes", is_flag=True, help="Resume although data, crop, batch or rate are other ones.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the output folder; else it goes to a sub-folder.")
@quietly
def train(profile, data, classes, out, crop, batch_size, **options) -> None:
    """Fine-tune; on several devices with torchrun --nproc-per-node 2 -m m2f_helpers train ..."""
    from m2f_helpers.finetune.training import finetune

    names = [name.strip() for name in classes.split(",")] if classes else ()
    sizes = {"crop_size": crop if any(crop) else (), "batch_size": batch_size or 0}
    result = finetune(profile, data, out, classes=names, **sizes, **options)
    if result is not None:
        click.echo(f"{result.loaded}\nmIoU {result.miou:.3f}  {result.checkpoint}")
