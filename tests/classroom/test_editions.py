"""Editions: students get no answer, teachers get everything, each is made whole or not at all."""

from __future__ import annotations

import ast
import json
import re
import shutil
from contextlib import suppress

import nbformat
import pytest

from m2f_helpers import execution, exercises
from m2f_helpers.classroom import editions, handout, quiz, slides
from m2f_helpers.classroom.cells import NAME_TAG, asked_in, read_exercises
from tests.conftest import verdicts

NAME = "02_resize_ade20k"
SOURCES = {name: editions.read_source(path) for name, path in execution.find_notebooks(()).items()}


@pytest.mark.parametrize("name", SOURCES)
def test_every_section_has_a_teacher_s_text_and_every_text_a_section(name):
    found = editions.sections(name, SOURCES[name])
    known = json.loads((editions.TEXTS / f"{name[:2]}.json").read_text(encoding="utf-8"))
    assert [section.heading for section in found] == list(known), "the texts stand in the order of the sections"
    assert all(section.aim and section.mistakes and section.questions for section in found)
    assert all(3 <= section.minutes <= 20 for section in found)


def test_a_moved_heading_is_named():
    changed = nbformat.from_dict(json.loads(json.dumps(SOURCES[NAME])))
    for cell in changed.cells:
        cell.source = cell.source.replace("## 02.1 ", "## 02.1 Many ")
    with pytest.raises(ValueError, match=r"02.json has no text for the section '02.1 Many"):
        editions.sections("02_resize_ade20k", changed)


ALL = {name: nbformat.read(path, as_version=4) for name, path in execution.list_notebooks().items()}


@pytest.mark.parametrize("name", ALL)
def test_no_solution_is_in_the_student_s_edition(name):
    source, edition = ALL[name], editions.student(ALL[name], name)
    nbformat.validate(edition)
    text = re.sub(r"\s+", " ", "\n".join(cell.source for cell in edition.cells))
    asked = read_exercises(source)
    assert len(asked) >= 3 and "Solution" not in text
    for exercise in asked:
        assert re.sub(r"\s+", " ", exercise.solution).strip() not in text, exercise.number
        given = source.cells[exercise.cell].source
        lines = [line.strip() for line in exercise.solution.splitlines() if line.strip() not in given]
        assert lines and not [line for line in lines if line in _words(edition)]
        explained = re.search(rf"### Solution {exercise.number}\n(.*?)</details>", _words(source), re.S)
        prose = [re.sub(r"\s+", " ", line).strip() for line in explained[1].split("```")[-1].splitlines()]
        assert not [line for line in prose if len(line) > 25 and line in text]
    assert f"### Exercise {asked[0].number}" in "\n".join(cell.source for cell in edition.cells)


@pytest.mark.parametrize("name", ALL)
def test_no_value_in_the_student_s_edition_is_an_answer(name):
    """Every number, word and list in the code, and in the text of the exercises, is asked; none is right."""
    edition = editions.student(ALL[name], name)
    words = _words(edition).partition("## Exercises")[2].partition("## References")[0]
    codes = [cell.source for cell in edition.cells if cell.cell_type == "code"] + re.findall(r"`([^`]+)`", words)
    values = [value for code in codes for value in _values(code)]
    values += [json.loads(number) for number in re.findall(r"(?<![\w.])[1-9]\d*(?:\.\d+)?(?![\w.])", words)]
    assert len(values) > 50
    for exercise in read_exercises(ALL[name]):
        right = [value for value in values if exercises.is_right(exercise.number, value)]
        assert not right or (exercise.number == "05.1" and set(right) == {0.5}), exercise.number  # given there as well


def _values(code):
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return
    for node in (node for node in nodes if isinstance(node, ast.expr)):
        with suppress(ValueError):
            yield ast.literal_eval(node)


@pytest.mark.parametrize("name", ALL)
def test_the_student_s_file_holds_nothing_beside_text_and_code(name):
    edition = editions.student(ALL[name], name)
    assert not any(
        cell.get("outputs") or cell.get("attachments") or cell.get("execution_count") for cell in edition.cells
    )
    known = {"tags", "nbgrader", "editable", "jupyter"}
    assert not [cell.metadata for cell in edition.cells if set(cell.metadata) - known]
    assert set(edition.metadata) <= {"kernelspec", "language_info", "m2f"}


def _words(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_student_s_cells_carry_what_nbgrader_reads():
    edition = editions.student(SOURCES[NAME], NAME)
    grades = [cell.metadata.nbgrader for cell in edition.cells if "nbgrader" in cell.metadata]
    assert len(grades) == len(read_exercises(SOURCES[NAME]))
    assert all(m.grade and m.locked and m.points == 1 and not m.solution and m.schema_version == 3 for m in grades)
    assert len({m.grade_id for m in grades}) == len(grades)
    assert [c.source for c in edition.cells if NAME_TAG in c.metadata.get("tags", [])] == ['STUDENT = ""  # your name']
    assert edition == editions.student(SOURCES[NAME], NAME), "the same at every build"


def test_the_locked_cell_fails_until_the_exercise_is_solved(monkeypatch):
    edition = editions.student(SOURCES[NAME], NAME)
    proof = next(c.source for c in edition.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "grade-02-1")
    monkeypatch.setattr(exercises, "_solved", set())
    with pytest.raises(AssertionError, match="02.1: not yet"):
        exec(proof, {})
    exercises._solved.add("02.1")
    exec(proof, {})


def test_teacher_s_edition_has_solutions_and_notes():
    edition = editions.teacher(SOURCES[NAME], editions.sections(NAME, SOURCES[NAME]))
    for exercise in read_exercises(SOURCES[NAME]):
        cell = next(cell for cell in edition.cells if asked_in(cell) == exercise.number)
        assert exercise.solution.strip() in cell.source and cell.source.rstrip().endswith(exercise.question)
    text = _words(edition)
    assert text.count("**For the teacher.**") == len(editions.headings(SOURCES[NAME]))
    assert "For the teacher" not in _words(slides.without_notes(edition))


def section(minutes, skip=False, heading="x"):
    return editions.Section(heading, "", minutes, skip, (), ())


def test_plans_keep_the_order_and_drop_what_may_be_skipped_first():
    everything = [section(m, s, h) for m, s, h in [(10, 0, "a"), (10, 1, "b"), (20, 1, "c"), (10, 0, "d")]]
    assert [kept.heading for kept in editions.choose(everything, 30)] == ["a", "b", "d"]
    assert [kept.heading for kept in editions.choose(everything, 20)] == ["a", "d"]
    parts = editions.divide([section(10) for _ in range(9)], 3)
    assert [len(part) for part in parts] == [3, 3, 3]


def test_the_plan_of_the_tutorial_fits_its_lessons():
    texts = {name: editions.sections(name, source) for name, source in SOURCES.items()}
    text = editions.plan(texts, 45)
    for title, lessons in (("Five lessons", 5), ("Eight lessons", 8)):
        block = text.split(f"## {title}")[1].split("\n## ")[0]
        each = [sum(map(int, re.findall(r"\((\d+) min\)", line))) for line in re.findall(r"^\d+\. .*$", block, re.M)]
        assert len(each) == lessons and max(each) <= 45 + 8 and min(each) >= 20, each


def test_the_quiz_accepts_its_answers_and_only_these():
    questions = quiz.read_questions()
    assert len(questions) == 20 and all(len(set(q.options)) == 4 and q.reason for q in questions)
    assert {q.right for q in questions} == {0, 1, 2, 3}
    for q in questions:
        sealed = exercises._load("90")[q.number]
        assert [exercises.compare(letter, sealed)[0] for letter in quiz.LETTERS] == [i == q.right for i in range(4)]
    text = "\n".join(cell.source for cell in quiz.notebook(questions).cells)
    assert not any(q.reason in text for q in questions)


def test_gift_escapes_what_moodle_would_read_as_its_own():
    question = quiz.Question("90.1", "Is {a} = b?", ("~1", "#2", "3:4", "5"), 2, "Because 3:4 = 0.75.")
    assert quiz.gift([question]) == (
        "::90.1::[markdown]Is \\{a\\} \\= b? {\n  ~\\~1\n  ~\\#2\n  =3\\:4\n  ~5\n  ####Because 3\\:4 \\= 0.75.\n}\n"
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Everything, for notebook 02 alone, which is quick."""
    pytest.importorskip("sphinx_revealjs", reason="the extra classroom is not installed")
    root = tmp_path_factory.mktemp("class")
    patch = pytest.MonkeyPatch()
    chosen = {NAME: execution.list_notebooks()[NAME]}
    patch.setattr(execution, "find_notebooks", lambda wanted: chosen)
    yield root, editions.build(root / "class", runs=root / "runs", zipped=True)
    patch.undo()


@pytest.mark.slow
def test_a_build_has_every_part(built):
    root, counts = built
    assert counts == {"student": 1, "teacher": 1, "slides": 1, "handout": 1, "quiz": 3}
    assert {path.name for path in (root / "class").iterdir()} == {*counts, "plan.md", "student.zip", "teacher.zip"}
    executed = nbformat.read(root / "class" / "teacher" / f"{NAME}.ipynb", 4)
    said = [
        out.data["text/plain"]
        for cell in executed.cells
        for out in cell.get("outputs", [])
        if exercises.MIME in out.get("data", {})
    ]
    assert len(said) == len(read_exercises(SOURCES[NAME])) and all(": right." in text for text in said)
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_after_a_run_only_the_solutions_run(built, tmp_path, monkeypatch):
    """A run that printed something else everywhere: its outputs are shown, and every solution is still run."""
    earlier = nbformat.from_dict(json.loads(json.dumps(SOURCES[NAME])))
    for cell in earlier.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="of the earlier run")]
    nbformat.write(earlier, tmp_path / f"{NAME}.ipynb")
    edition = editions.teacher(SOURCES[NAME], editions.sections(NAME, SOURCES[NAME]))
    executed = editions.run_teacher(edition, NAME, tmp_path)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(("of the earlier run" in str(cell.outputs)) != bool(asked_in(cell)) for cell in code)
    assert all(right for _, right in verdicts(executed)) and len(verdicts(executed)) == 4
    assert str(tmp_path) not in nbformat.writes(executed) and "skip-execution" not in nbformat.writes(executed)
    earlier.cells[3].source += "\n# of last year"
    nbformat.write(earlier, tmp_path / f"{NAME}.ipynb")
    assert editions.earlier_run(edition, tmp_path / f"{NAME}.ipynb") is None


def test_a_slide_holds_what_a_screen_holds():
    md, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    figure = nbformat.v4.new_output("display_data", data={"text/html": "<img src='data:,'>"})
    words = "\n\n".join(["word " * 60] * 12) + "\n\n- one\n- two"
    found = slides.split([md("## 01.1 Long"), md(words), code("a = 1", outputs=[figure, figure]), code("b = 2")])
    assert all(sum(map(slides.lines_of, part)) <= slides.ROOM for part in found if not part[0].get("outputs"))
    assert [len(part[0].outputs) for part in found if part[0].get("outputs")] == [1, 1]
    assert "".join(cell.source for part in found for cell in part).count("word") == 720
    assert slides.portions("- one\n- two\n\n$$\na\n\n+ b\n$$") == ["- one\n- two\n\n$$ a + b $$"]


@pytest.mark.slow
def test_slides_stand_alone(built):
    text = (built[0] / "class" / "slides" / f"{NAME}.html").read_text(encoding="utf-8")
    frame = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"<(?:img|link|script|iframe)[^>]+(?:src|href)=.https?:", frame)
    assert "Reveal.initialize" in text and text.count("<section>") > 20 and text.count('class="notes"') >= 5
    assert "# Solution" not in text and "For the teacher" not in text


@pytest.mark.slow
def test_a_handout_is_two_pages(built):
    (path,) = (built[0] / "class" / "handout").iterdir()
    if path.suffix == ".html":
        pytest.skip("no browser is here to print with")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", path.read_bytes())) == 2


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things than an edition"):
        editions.build(tmp_path)
    with pytest.raises(ValueError, match="expected lessons of 20 to 180 minutes, got 5"):
        editions.build(tmp_path / "new", minutes=5)
    (tmp_path / "no.ipynb").write_text("my dog ate it")
    with pytest.raises(ValueError, match=r"no.ipynb is not a notebook"):
        editions.read_source(tmp_path / "no.ipynb")
    dirty = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="1")])]
    )
    nbformat.write(dirty, tmp_path / "dirty.ipynb")
    with pytest.raises(ValueError, match=r"dirty.ipynb holds outputs: strip it first"):
        editions.read_source(tmp_path / "dirty.ipynb")
    assert not (tmp_path / "new").exists()


def test_a_build_that_fails_keeps_the_last_one(tmp_path, monkeypatch):
    out = tmp_path / "class"
    out.mkdir()
    (out / "plan.md").write_text("last year's")

    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editions, "write_all", full)
    with pytest.raises(OSError, match="No space left"):
        editions.build(out)
    assert (out / "plan.md").read_text() == "last year's"
    assert [path.name for path in tmp_path.iterdir()] == ["class"]


def test_without_a_browser_the_handout_is_a_page_for_print(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    path = handout.write(tmp_path, "02", SOURCES[NAME], "02 Resize ADE20K")
    text = path.read_text(encoding="utf-8")
    assert path.name == "02.html" and "@page { size: A4" in text and "Exercise 02.1" in text
    assert "Solution" not in text
