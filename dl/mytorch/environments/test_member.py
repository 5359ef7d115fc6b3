"""What goes wrong in an environment is one line that names it."""

import math
import sys
from typing import Any

import numpy as np
import pytest

from dl.mytorch.config import UserError
from dl.mytorch.environments.member import Member, make
from dl.mytorch.testing.environments import scripted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fails": {2: RuntimeError("the motor\nis broken")}}, "raised RuntimeError: the motor$"),
        ({"fails": {2: AssertionError()}}, "raised AssertionError: no text$"),
        ({"fails": {2: math.nan}}, "gave the reward nan; rewards have to be finite numbers$"),
        ({"seen": {2: np.array([1.0, math.inf])}}, "gave an observation that is not finite$"),
        ({"seen": {2: np.zeros(3)}}, r"gave an observation of shape \(3,\), its space says \(2,\)$"),
    ],
)
def test_an_error_names_the_environment_and_the_step(changes: dict[str, Any], message: str) -> None:
    member = Member(scripted(**changes), 4, 0)
    member.step(0)
    with pytest.raises(UserError, match=rf"^the environment Scripted-v0 \(number 4\), in step \d of its episode, {message}"):
        member.step(0)


def test_an_environment_may_end_at_its_first_step() -> None:
    member = Member(scripted(steps=1), 0, 0)
    observation, reward, terminated, truncated = member.step(0)
    assert (observation.tolist(), reward, terminated, truncated) == ([1, 1], 1, True, False)


def test_a_name_that_nobody_registered_is_one_line() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(UserError, match="^the environment CartPol-v1 cannot be made: .*CartPol"):
        make("CartPol-v1")


def test_without_gymnasium_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r'^environments are gymnasium\'s: pip install -e "\.\[rl\]"$'):
        make("CartPole-v1")
