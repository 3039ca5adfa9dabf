"""Who has not given a name yet counts among those who are online."""

STEP = "names"
FOUND_BY = "test_road_names.test_who_is_at_the_door_hears_nothing_and_does_not_count"
SAYS = "3 online"
REPLACE = {
    '%s joined, %d online", client, len(self.room)': '%s joined, %d online", client, len(self.clients)',
}
