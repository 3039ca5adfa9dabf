"""While the disk cannot be written, all that is said waits for it."""

STEP = "history"
FOUND_BY = "test_road_history.test_what_waits_for_the_disk_is_bounded"
SAYS = "waited in vain"  # for what the room is told of the lines that are lacking
REPLACE = {"MAX_UNWRITTEN = 10_000": "MAX_UNWRITTEN = 10**9"}
