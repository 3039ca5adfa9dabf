"""What cannot be written at once never is."""

STEP = "history"
FOUND_BY = "test_road_history.test_a_file_that_is_locked"
SAYS = "should have heard nothing"
REPLACE = {"            self.trouble = True\n": "            self.trouble = True\n            self.batch.clear()\n"}
