"""The room is told each second that the history cannot be written."""

STEP = "history"
FOUND_BY = "test_road_history.test_a_file_that_is_locked"
SAYS = r"cannot be written: database is locked\\n' of what was"
REPLACE = {"            if not self.trouble:\n": "            if True:\n"}
