from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.results.specimens.compare import compare
from napari_bloodcell.results.specimens.pages import render
from napari_bloodcell.results.specimens.statistics import bland_altman, repeatability


def result(folder: Path, image: str, **numbers: Any) -> Path:
    """A result's folder, as far as a comparison reads it."""
    counts = {name: numbers.pop(name) for name in ("RBC", "WBC", "platelet") if name in numbers}
    folder.mkdir(parents=True)
    content = {"image": image, "counts": counts, "per_mm2": {n: 2.0 * v for n, v in counts.items()}, **numbers}
    (folder / "counts.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def laboratory(tmp_path: Path) -> Path:
    """Twelve smears of ten specimens: what was counted by hand, and results that find 5 % more red cells."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(12):
        specimen = max(i - 2, 0)  # the first three are smears of one
        true = 200 + 40 * specimen
        by_hand, found = true + int(random.integers(-4, 5)), round(1.05 * true) + int(random.integers(-6, 7))
        grade, n_malaria = specimen % 4, specimen % 2
        row = {"image": f"smear{i}.jpg", "specimen": f"S{specimen}", "RBC": by_hand, "RBC_per_mm2": 2 * by_hand}
        row |= {"neutrophil_percent": 50 + i, "echinocyte_grade": "+" * grade if grade else "-"}
        row |= {"malaria": "positive" if n_malaria else "negative", "WBC": "" if i == 5 else specimen // 3}
        rows.append(row)
        result(
            tmp_path / "out" / f"smear{i}", f"smear{i}", RBC=found, WBC=specimen // 3 + (i == 7),
            echinocyte_grade=min(grade + (i == 3), 3), malaria=n_malaria if i != 9 else 2,
            differential={"neutrophil": {"n": 5, "percent": 51.0 + i}, "erythroblast": {"n": 1, "percent": None}},
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "manual.csv", index=False)
    return tmp_path


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def test_each_measure_gets_the_figures_of_its_kind(laboratory: Path) -> None:
    found = compare(laboratory / "manual.csv", [laboratory / "out"])
    kinds = {name: measure.kind for name, measure in found.measures.items()}
    assert kinds == {
        "RBC": "number", "RBC_per_mm2": "number", "neutrophil_percent": "number", "echinocyte_grade": "grade",
        "malaria": "presence", "WBC": "number",
    }  # fmt: skip
    rbc, grade, malaria = (found.measures[name] for name in ("RBC", "echinocyte_grade", "malaria"))
    assert rbc.bland_altman == bland_altman(rbc.by_hand, rbc.found)
    assert rbc.passing_bablok is not None
    assert rbc.passing_bablok.slope.low < 1.05 < rbc.passing_bablok.slope.high
    assert grade.confusion == [[3, 0, 0, 0], [0, 2, 1, 0], [0, 0, 2, 0], [0, 0, 0, 2]]
    assert grade.weighted_kappa is not None
    assert grade.kappa is not None
    assert grade.weighted_kappa.value > grade.kappa.value
    assert malaria.detection is not None
    assert (malaria.detection.true_positive, malaria.detection.positive) == (5, 5)
    assert (malaria.detection.true_negative, malaria.detection.negative) == (5, 5)


def test_repeated_smears_count_once_in_the_comparison_and_all_in_the_repeatability(laboratory: Path) -> None:
    found = compare(laboratory / "manual.csv", [laboratory / "out"])
    rbc = found.measures["RBC"]
    assert rbc.n == 10
    assert (rbc.repeatability["found"].n_repeated, rbc.repeatability["found"].n) == (1, 3)
    pairs = found.pairs[found.pairs["measure"] == "RBC"]
    assert rbc.repeatability["by hand"] == repeatability(pairs["specimen"].tolist(), pairs["by_hand"])
    assert any("2 repeated smears" in warning for warning in found.warnings)


def test_a_blank_cell_was_not_counted(laboratory: Path) -> None:
    found = compare(laboratory / "manual.csv", [laboratory / "out"])
    assert "smear5.jpg" not in set(found.pairs[found.pairs["measure"] == "WBC"]["image"])
    assert found.measures["WBC"].n == 9


def test_the_value_that_means_there_can_be_chosen(laboratory: Path) -> None:
    found = compare(laboratory / "manual.csv", [laboratory / "out"], positive={"WBC": 2})
    detection = found.measures["WBC"].detection
    assert detection is not None
    assert (detection.positive, detection.meaning) == (4, "2 or more")
    assert (detection.true_negative, detection.negative) == (4, 5)


def test_results_in_memory_and_on_disk_compare_alike(laboratory: Path, tmp_path: Path) -> None:
    from tests.fakes import BrightnessClassifier, ThresholdGenerator

    image = np.full((120, 160, 3), 230, np.uint8)
    image[20:50, 20:50] = image[70:100, 20:50] = 120
    made = nb.analyse(image, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    nb.write_result(made, tmp_path / "one" / "smear", image=image)
    listed = pd.DataFrame({"image": [made.image_name], "RBC": [3]})
    here = compare(listed, [made]).measures["RBC"]
    there = compare(listed.assign(image="smear"), [tmp_path / "one"]).measures["RBC"]
    assert here.found == there.found == (2.0,)


def test_a_spreadsheet_with_semicolons_and_decimal_commas_is_read(laboratory: Path) -> None:
    (laboratory / "list.csv").write_text("\ufeffimage;neutrophil_percent\nsmear3;52,5\n", encoding="utf-8")
    found = compare(laboratory / "list.csv", [laboratory / "out"])
    assert found.measures["neutrophil_percent"].by_hand == (52.5,)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_network_and_is_the_same_bytes_again(laboratory: Path) -> None:
    arguments = ("compare", laboratory / "manual.csv", laboratory / "out", "-o")
    assert run(*arguments, laboratory / "a") == run(*arguments, laboratory / "b") == cli.DONE
    names = ["comparison.csv", "comparison.html", "comparison.json"]
    assert sorted(p.name for p in (laboratory / "a").iterdir()) == names
    for name in names:
        assert (laboratory / "a" / name).read_bytes() == (laboratory / "b" / name).read_bytes()
    page = (laboratory / "a" / "comparison.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"base64,[^\"]*", "", page))
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(pictures) == 8
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_figures_of_the_page_are_those_of_the_json(laboratory: Path) -> None:
    from napari_bloodcell.results.specimens.pages import number

    assert run("compare", laboratory / "manual.csv", laboratory / "out", "-o", laboratory / "a") == cli.DONE
    page = (laboratory / "a" / "comparison.html").read_text(encoding="utf-8")
    figures = json.loads((laboratory / "a" / "comparison.json").read_text(encoding="utf-8"))["measures"]
    for measure in figures.values():
        for name in ("concordance", "spearman", "kappa", "weighted_kappa"):
            if measure[name] is not None:
                assert number(measure[name]["value"]) in page


def test_names_from_outside_are_escaped(laboratory: Path) -> None:
    listed = pd.read_csv(laboratory / "manual.csv").rename(columns={"RBC": "<script>alert(1)</script>"})
    result(laboratory / "more" / "evil", "evil", **{"<script>alert(1)</script>": 3})
    listed.loc[len(listed)] = {"image": "evil", "specimen": "e", "<script>alert(1)</script>": 4}
    found = compare(listed, [laboratory / "out", laboratory / "more"])
    found.write(laboratory / "page")
    page = (laboratory / "page" / "comparison.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_the_command_says_what_it_found(laboratory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", laboratory / "manual.csv", laboratory / "out", "-o", laboratory / "a") == cli.DONE
    out, err = capsys.readouterr()
    assert re.search(r"^RBC: 10 pairs, bias .* to .*, concordance 0\.9", out, re.MULTILINE)
    assert "repeated smears" in err


def test_a_template_can_read_values_and_call_nothing_else(tmp_path: Path) -> None:
    template = tmp_path / "own.html"
    template.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InputError, match="cannot be used"):
        render(template)
    template.write_text("{{ x }}\n{{ unknown }}")
    with pytest.raises(InputError, match="unknown"):
        render(template, x=1)


# --- what cannot be compared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,RBC\nsmear1,3\n", "no column 'image'"),
        ("image,RBC\nsmear1,3\nsmear1,4\n", "two rows for 'smear1'"),
        ("image\nsmear1\n", "no counts"),
        ("image,RBC\n", "no counts"),
        ("image,RBC\nother,3\n", "None of the 1 images"),
        ("image,RBC\nsmear1,many\n", "RBC of smear1 is 'many'; a number"),
        ("image,RBC\nsmear1,inf\n", "a number is expected"),
        ("image,echinocyte_grade\nsmear1,1.5\n", r"0, 1\+, 2\+, 3\+ is expected"),
        ("image,dogs\nsmear1,3\n", "No result has the measure 'dogs'"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_words(laboratory: Path, text: str, message: str) -> None:
    (laboratory / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        compare(laboratory / "list.csv", [laboratory / "out"])


def test_what_is_missing_is_named_and_the_rest_compared(laboratory: Path) -> None:
    (laboratory / "list.csv").write_text("image,RBC,dogs\nsmear1,3,1\nlost,4,1\n")
    found = compare(laboratory / "list.csv", [laboratory / "out"])
    assert found.warnings == ("1 of the list has no result: lost.", "No result has the measure 'dogs': it is left out.")
    assert found.measures["RBC"].n == 1


def test_results_that_are_none_or_not_to_be_told_apart_are_refused(laboratory: Path) -> None:
    (laboratory / "empty").mkdir()
    with pytest.raises(InputError, match="holds no result"):
        compare(laboratory / "manual.csv", [laboratory / "empty"])
    result(laboratory / "again" / "smear1", "smear1", RBC=1)
    with pytest.raises(InputError, match="Two results are called 'smear1'"):
        compare(laboratory / "manual.csv", [laboratory / "out", laboratory / "again"])
    result(laboratory / "more" / "other", "smear1", RBC=1)
    assert compare(laboratory / "manual.csv", [laboratory / "out", laboratory / "more"]).n_compared == 12
    (laboratory / "more" / "other" / "counts.json").write_text("[")
    with pytest.raises(InputError, match="damaged"):
        compare(laboratory / "manual.csv", [laboratory / "more"])


def test_a_wrong_limit_is_refused(laboratory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("compare", laboratory / "manual.csv", laboratory / "out", "-o", laboratory / "a", "--positive")
    assert run(*arguments, "WBC") == cli.WRONG_USE
    assert "as in WBC=1" in capsys.readouterr().err
    assert run(*arguments, "dogs=1") == cli.WRONG_USE
    assert "'dogs' is no measure" in capsys.readouterr().err
