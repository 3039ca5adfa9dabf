"""Everybody waits for the disk from which a certificate is read again."""

STEP = "tls"
FOUND_BY = "test_road_tls.test_sighup_with_a_file_that_does_not_answer_holds_up_nobody"
SAYS = "got something else"
REPLACE = {
    "threading.Thread(target=self.read_certificate, daemon=True).start()": "self.read_certificate()",
}
