"""Who gives no name stays at the door."""

STEP = "names"
FOUND_BY = "test_road_names.test_who_gives_no_name_is_dropped_after_30_seconds"
SAYS = "no name within 30 seconds"
REPLACE = {
    "self.loop.call_later(DOOR_TIME, self.drop": "self.loop.call_later(100 * DOOR_TIME, self.drop",
}
