"""Examples that Hypothesis finds, tried on a server one after the other."""

import functools

from hypothesis import given


def each_example(*strategies):
    """Call the decorated function with examples, until one of them fails; that failure is the test's.

    Hypothesis would try the same and simpler ones again. But what has once gone wrong is not undone for the same
    clients: something may still be on its way to them, or the server may have ended, and the next example would fail
    for that. So the first failure is the one that is told, at once.
    """

    def call(check):
        failures = []

        @given(*strategies)
        @functools.wraps(check)
        def attempt(**example):
            if not failures:
                try:
                    check(**example)
                except (AssertionError, UnicodeError) as failure:
                    failures.append(failure)

        attempt()
        if failures:
            raise failures[0]

    return call
