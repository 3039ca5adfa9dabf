"""Who has not given a name yet hears what is said."""

STEP = "names"
FOUND_BY = "test_road_names.test_who_is_at_the_door_hears_nothing_and_does_not_count"
SAYS = "ana joined"
REPLACE = {
    "in self.room.values():\n                self.send": "in self.clients:\n                self.send",
}
