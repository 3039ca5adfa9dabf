"""The loop writes each line by itself, and so everybody waits for the disk."""

STEP = "history"
FOUND_BY = "test_road_history.test_a_disk_that_stalls"
SAYS = "got something else"
REPLACE = {
    "            self.asked = True\n            self.ask(self.write)\n\n": "            self.write()\n\n",
    "BATCH_TIME = 0.1": "BATCH_TIME = 0",
}
