"""So many connections may there be, from wherever they are."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_a_place_is_free_again_as_soon_as_one_has_left"
SAYS = "got something else"
REPLACE = {
    "same = sum(other.host == client.host for other in self.clients)": "same = len(self.clients)",
}
