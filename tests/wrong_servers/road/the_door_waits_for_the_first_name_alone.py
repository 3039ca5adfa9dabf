"""The seconds begin with the first question, also for who was asked again."""

STEP = "names"
FOUND_BY = "test_road_names.test_who_gives_no_name_is_dropped_after_30_seconds"
SAYS = ">= 30"
REPLACE = {
    "client.timer.cancel()\n        error": "return self.send(client, question.encode())\n        error",
}
