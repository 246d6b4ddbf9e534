"""What the classes of label maps are called."""

import numpy as np
import pytest

from acmix.config import validate
from acmix.data.classes import Trained
from acmix.data.dataset import OtherClasses
from acmix.data.label_names import open_labels
from acmix.errors import UsageError

# the first lines of ADE20K's own file: blanks, synonyms
TABLE = "Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n2 \t0.1072\t6046\t612\tbuilding, edifice \n"


def names(root, count: int, **settings):
    task = validate({"task": {"name": "segment", "num_classes": count, **settings}}).task
    return open_labels(root, task)


def test_classes_without_a_list_have_numbers(tmp_path):
    labels = names(tmp_path, 3)
    assert (labels.names, labels.stored, labels.notes) == (["0", "1", "2"], 3, ())


def test_ade20k_s_table_gives_the_first_synonym(tmp_path):
    (tmp_path / "objectInfo150.txt").write_text(TABLE)
    assert names(tmp_path, 2).names == ["wall", "building"]
    (tmp_path / "objectInfo150.txt").write_text(TABLE.replace(",", ";").replace("\t", ",").replace("\n", "\r\n"))
    assert names(tmp_path, 2).names == ["wall", "building"]
    # the column that newer copies have
    (tmp_path / "objectInfo150.txt").write_text("Idx\tStuff\tName\n1\t1\twall\n2\t0\tbed\n")
    assert names(tmp_path, 2).names == ["wall", "bed"]


def test_classes_that_share_a_first_synonym_keep_all(tmp_path):
    (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n1\tscreen, silver screen\n2\tscreen, door\n")
    assert names(tmp_path, 2).names == ["screen, silver screen", "screen, door"]


def test_a_name_a_line(tmp_path):
    (tmp_path / "classes.txt").write_text("\ufeffroad\r\n\r\nBürgersteig \r\n", encoding="utf-8")
    assert names(tmp_path, 2).names == ["road", "Bürgersteig"]


def test_names_in_the_settings_come_first_and_are_told_of(tmp_path):
    assert names(tmp_path, 2, classes=["a", "b"]).names == ["a", "b"]
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    labels = names(tmp_path, 2, classes=["a", "b"])
    assert labels.names == ["a", "b"]
    assert labels.notes == (
        f"the names of the classes are those of task.classes, which differ from {tmp_path / 'classes.txt'}",
    )
    assert names(tmp_path, 2, classes=["road", "car"]).notes == ()


def test_a_list_of_another_number_of_classes_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    with pytest.raises(OtherClasses, match=r"classes.txt names 2 classes, but task.num_classes is 3; set") as error:
        names(tmp_path, 3)
    assert error.value.found == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("classes.txt", "car\nroad\ncar\n", "names the class 'car' twice"),
        ("classes.txt", "\n \n", "names no class"),
        ("classes.txt", "a" * 1_000_001, "more than 1000000 bytes"),
        ("classes.txt", "\n".join(map(str, range(300))), "names 300 classes; expected at most 255"),
        ("objectInfo150.txt", "wall\nbed\n", "has no columns Idx and Name"),
        ("objectInfo150.txt", "", "has no columns Idx and Name"),
        ("objectInfo150.txt", "Idx\tName\n", "names no class"),
        ("objectInfo150.txt", "Idx\tName\n1\twall\n3\tbed\n", "row 2 is '3\\tbed'; expected 2 columns with Idx 2"),
        ("objectInfo150.txt", "Idx\tName\n1\n", "row 1 is '1'; expected 2 columns"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as error:
        names(tmp_path, 2)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_label_maps_hold_255_classes_at_most(tmp_path):
    assert len(names(tmp_path, 255, ignore_zero=False).names) == 255
    with pytest.raises(UsageError, match=r"task\.num_classes=255; expected at most 254: 255 marks"):
        names(tmp_path, 255)
    with pytest.raises(UsageError, match="expected at most 255"):
        names(tmp_path, 256, ignore_zero=False)


def trained_labels(root, trained: list[str], *, are_named: bool = True):
    task = validate({"task": {"name": "segment", "num_classes": len(trained)}}).task
    return open_labels(root, task, Trained(trained, are_named, "the model"))


def test_a_model_s_classes_are_found_by_name(tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    labels = trained_labels(tmp_path, ["car", "tree", "road"])
    assert (labels.names, labels.stored) == (["car", "tree", "road"], 2)
    assert labels.table is not None
    assert labels.table[np.array([[0, 1, 255]], dtype=np.uint8)].tolist() == [[2, 0, 255]]


def test_a_model_that_numbers_its_classes_is_found_by_number(tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    labels = trained_labels(tmp_path, ["0", "1", "2"], are_named=False)
    assert labels.table is not None
    assert labels.table[[0, 1, 255]].tolist() == [0, 1, 255]
    # and data without names
    (tmp_path / "classes.txt").unlink()
    assert trained_labels(tmp_path, ["car", "tree"]).stored == 2


def test_classes_that_a_model_does_not_know_are_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nbus\n")
    with pytest.raises(UsageError, match="it does not know 'bus'"):
        trained_labels(tmp_path, ["car", "tree", "road"])
