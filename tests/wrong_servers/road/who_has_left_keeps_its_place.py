"""Connections are counted, and nobody counts back."""

STEP = "limits"
FOUND_BY = "test_road_limits.test_a_place_is_free_again_as_soon_as_one_has_left"
SAYS = "got something else"
REPLACE = {
    "self.clients.add(client)\n": 'self.clients.add(client); self.seen = [*getattr(self, "seen", []), client.host]\n',
    "sum(other.host == client.host for other in self.clients)": 'getattr(self, "seen", []).count(client.host)',
}
