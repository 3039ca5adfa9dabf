"""The loop hashes passwords by itself, and everybody waits for that."""

STEP = "accounts"
FOUND_BY = "test_road_accounts.test_the_room_talks_on_while_passwords_are_hashed"
SAYS = "assert|got something else"
REPLACE = {"return await asyncio.get_running_loop().run_in_executor(self.threads, job)": "return job()"}
