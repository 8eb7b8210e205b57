"""Errors that are told to people.

Three kinds of failure are kept apart: what the kernel would answer is an ``OSError`` with the
kernel's errno, a mistake of our own is an ``AssertionError``, and everything that the person at the
keyboard can put right is a ``DksmfsError``.
"""


class DksmfsError(Exception):
    """Something a person can put right; the text says what, where, and what to do about it."""


class NoInstanceError(DksmfsError):
    """No running instance fits what was asked for."""
