"""The certificate is read again, and newcomers are shown the old one."""

STEP = "tls"
FOUND_BY = "test_road_tls.test_sighup_has_newcomers_see_a_new_certificate"
SAYS = "the new certificate is not shown"
REPLACE = {
    "self.context = tls_context(": "context = tls_context(",
}
