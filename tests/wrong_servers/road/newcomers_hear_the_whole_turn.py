"""Who comes hears what was said just before."""

STEP = "names"
FOUND_BY = "test_road_names.test_who_comes_does_not_hear_what_was_said_before"
SAYS = "ana says: before"
REPLACE = {
    "        self.turn.leave_out(client)  # what was said before it came is not for it\n": "",
}
