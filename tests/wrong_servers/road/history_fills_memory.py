"""All that was ever said stays in memory."""

STEP = "history"
FOUND_BY = "test_road_history.test_memory_stays_flat"
SAYS = "MiB more"
REPLACE = {"collections.deque(reversed(newest), RECENT)": "collections.deque(reversed(newest))"}
