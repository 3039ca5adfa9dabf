"""While the disk cannot be written, all that is said waits for it."""

STEP = "history"
FOUND_BY = "test_road_history.test_what_waits_for_the_disk_is_bounded"
SAYS = "Left contains 5001 more items"
REPLACE = {"MAX_UNWRITTEN = 10_000": "MAX_UNWRITTEN = 10**9"}
