"""Questions that may never be answered."""

import os

from dksmfs.mount.questions import Answer, ask


def fail() -> None:
    raise OSError("nobody is told")


def test_answers_come_in_the_order_of_the_questions() -> None:
    assert ask([lambda: {"run": 1}, lambda: 2, lambda: None], 10.0) == [
        Answer({"run": 1}),
        Answer(2),
        Answer(None),
    ]


def test_a_question_that_fails_or_hangs_hides_no_other() -> None:
    reader, writer = os.pipe()
    questions = [lambda: os.read(reader, 1).hex(), fail, lambda: 3]
    assert ask(questions, 0.5) == [None, None, Answer(3)]
    os.close(reader)
    os.close(writer)


def test_no_questions() -> None:
    assert ask([], 1.0) == []
