"""When the server stops, each one hears that others left."""

STEP = "names"
FOUND_BY = "test_road_names.test_the_room_is_not_told_who_left_when_the_server_stops"
SAYS = "left"
REPLACE = {
    '"dropped: server stopping")': '"dropped: server stopping")\n            self.broadcast()',
}
