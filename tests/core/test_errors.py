import errno

import pytest

from nutgraf.core.errors import Failure, UserError, library_errors


@pytest.mark.parametrize("error", [AttributeError("no\n'x'"), RuntimeError(), KeyError("layers")])
def test_what_a_library_says_about_an_input_is_one_line_with_fact_and_change(error):
    with (
        pytest.raises(UserError) as raised,
        library_errors("model.base 'b' is odd", "give another"),
    ):
        raise error
    said = {AttributeError: "AttributeError: no 'x'", RuntimeError: "RuntimeError"}
    expected = said.get(type(error), "KeyError: 'layers'")
    assert str(raised.value) == f"model.base 'b' is odd ({expected}): give another"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [UserError("ours"), Failure("ours"), MemoryError(), OSError(errno.ENOSPC, "full"),
     type("OutOfMemoryError", (RuntimeError,), {})(), KeyboardInterrupt()],
)  # fmt: skip
def test_our_own_errors_and_a_full_machine_are_not_blamed_on_an_input(error):
    with pytest.raises(type(error)) as raised, library_errors("x is y", "give z"):
        raise error
    assert raised.value is error


def test_the_kind_of_error_can_be_chosen():
    with pytest.raises(Failure, match="unreachable"), library_errors("a", "b", Failure):
        raise ConnectionError("unreachable")
