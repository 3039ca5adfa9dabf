"""What is unwritten when the server stops is lost."""

STEP = "history"
FOUND_BY = "test_road_history.test_all_is_written_when_the_server_stops"
SAYS = "'could not be written' is contained"
REPLACE = {
    "        self.closing.set()\n        self.jobs.put(None)\n        self.thread.join(seconds)\n": "",
    "BATCH_TIME = 0.1": "BATCH_TIME = 0.9",
}
