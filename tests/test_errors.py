from alignkd_lab.errors import AlignkdError, BadInput, CannotContinue, UnknownName


def test_an_expected_error_can_be_caught_as_ours_and_as_python_s_and_an_unknown_name_lists_the_accepted_ones():
    for kind, builtin in ((BadInput, ValueError), (UnknownName, ValueError), (CannotContinue, RuntimeError)):
        assert issubclass(kind, AlignkdError)
        assert issubclass(kind, builtin)
    error = UnknownName("target", "smile", ["digit", "simile"])
    assert str(error) == "target 'smile' is unknown. Accepted: digit, simile."
