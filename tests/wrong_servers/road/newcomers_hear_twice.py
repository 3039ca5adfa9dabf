"""What was said just before somebody came, and is still to be told, is told to the newcomer twice."""

STEP = "history"
FOUND_BY = "test_road_history.test_who_comes_while_others_talk_misses_nothing_and_hears_nothing_twice"
SAYS = "heard .* of (ana|bob)"
REPLACE = {"        self.turn.leave_out(client)  # what was said": "        # what was said"}
