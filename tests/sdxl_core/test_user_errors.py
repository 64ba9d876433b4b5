import pickle

import pytest

from sdxl_core.errors import UserError, did_you_mean


def test_the_usual_form_names_place_expectation_value_and_remedy() -> None:
    error = UserError.about("dataset.split", expected="train or test", got="'trian'", fix="Did you mean 'train'?")
    assert str(error) == "dataset.split: expected train or test, got 'trian'. Did you mean 'train'?"
    assert str(UserError.about("a", expected="b", got=3)) == "a: expected b, got 3"


def test_it_is_a_value_error_that_survives_a_process_boundary() -> None:
    again = pickle.loads(pickle.dumps(UserError.about("a", expected="b", got="c")))
    assert isinstance(again, UserError) and isinstance(again, ValueError) and str(again) == "a: expected b, got c"


@pytest.mark.parametrize(
    ("got", "hint"), [("captoin", "Did you mean 'caption'?"), ("zzz", ""), ("image", "Did you mean 'image'?")]
)
def test_the_nearest_name_is_offered_only_if_near(got: str, hint: str) -> None:
    assert did_you_mean(got, ["caption", "image"]) == hint
