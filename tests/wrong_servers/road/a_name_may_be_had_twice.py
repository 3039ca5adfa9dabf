"""Nobody looks whether a name is taken."""

STEP = "names"
FOUND_BY = "test_road_names.test_a_name_that_two_take_in_the_same_moment"
SAYS = r"\(8, 0\) == \(1, 7\)"
REPLACE = {
    "if self.room.get(key, client) is not client:": "if not self:",
    "del self.room[client.key]": "self.room.pop(client.key, None)",
}
