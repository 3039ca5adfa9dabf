"""Checks for exercises alone: not what every server promises, but what one way of waiting can do and another cannot."""

import resource

from course.room import NotHere
from course.stages import HEARD, check

CROWD = 1100  # clients: more than select(2) has numbers for


@check(
    "limits.crowd",
    f"With a limit of 2000 descriptors (ulimit -n) {CROWD} clients come. All must find place, and the first must hear "
    "the last.",
    needs=HEARD,
    hint="select(2) takes no descriptor above 1023, however many the process may have: poll(2) takes all.",
    echoes=False,
)
def crowd(room):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        raise NotHere(f"no more than {hard} descriptors may be had (ulimit -Hn)")
    room.start(nofile=2000)
    first, _ = room.join(2)
    for peer in [room.connect() for _ in range(CROWD)]:
        peer.deaf = True
    (last,) = room.join(1)
    last.send(b"how many we are\n")
    first.expect_lines(last, ["how many we are"])
