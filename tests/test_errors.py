import pytest

from alignkd_lab.errors import AlignkdError, BadInput, CannotContinue, UnknownName


@pytest.mark.parametrize(
    ("kind", "builtin"), [(BadInput, ValueError), (UnknownName, ValueError), (CannotContinue, RuntimeError)]
)
def test_an_expected_error_can_be_caught_as_ours_and_as_python_s(kind, builtin):
    assert issubclass(kind, AlignkdError)
    assert issubclass(kind, builtin)


def test_an_unknown_name_lists_the_accepted_ones():
    assert (
        str(UnknownName("target", "smile", ["digit", "simile"]))
        == "target 'smile' is unknown. Accepted: digit, simile."
    )
