"""What was said is written every five seconds, so that a kill -9 costs more than the last one."""

STEP = "history"
FOUND_BY = "test_road_history.test_after_kill_9_the_last_second_at_most_is_lacking"
SAYS = "lines are lacking"
REPLACE = {"BATCH_TIME = 0.1": "BATCH_TIME = 5"}
