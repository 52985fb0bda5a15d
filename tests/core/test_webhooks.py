"""What a URL for webhooks is, and what a secret."""

from __future__ import annotations

import base64

import pytest

from server.core.webhooks import WebhookRules, WebhookUrl, new_secret, parse_url, secret_bytes

GOOD = {
    "https://hooks.example.com/a?b=c": WebhookUrl("https", "hooks.example.com", 443),
    "https://Hooks.Example.com.:8443": WebhookUrl("https", "hooks.example.com.", 8443),
    "http://localhost:80/": WebhookUrl("http", "localhost", 80),
    "https://93.184.215.14/": WebhookUrl("https", "93.184.215.14", 443),
    "https://[2606:4700::1111]:8443/x": WebhookUrl("https", "2606:4700::1111", 8443),
    "https://xn--bcher-kva.example/": WebhookUrl("https", "xn--bcher-kva.example", 443),
}
BAD = (
    *("", "hooks.example.com", "ftp://a.example/", "https://", "https:///x", "//a.example/", "https://a.example:x/"),
    *("https://a.example:0/", "https://a.example:65536/", "https://a.example:/", "https://user@a.example/"),
    *("https://user:pass@a.example/", "https://@a.example/", "https://a.example/#x", "https://a.example/#"),
    *("https://bücher.example/", "https://a.example/ x", "https://a.example/\n", "https://a..example/"),
    *("https://-a.example/", "https://a_b!.example/", "https://a.example\\@b.example/", "https://[::1%25eth0]/"),
    # What a look-up would take for an address.
    *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://1.2.3/"),
    *("https://127.0.0.1./", "https://[::1", "https://" + "a" * 2048),
)


@pytest.mark.parametrize("url", GOOD)
def test_a_url_says_where_it_leads(url: str) -> None:
    assert parse_url(url) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_url_for_webhooks_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        parse_url(url)


def test_the_operator_says_which_ports_and_whether_without_tls() -> None:
    usual, lax = WebhookRules(), WebhookRules(allow_http=True, ports=frozenset({80}))
    assert usual.objection(parse_url("https://a.example/")) is None
    assert "https" in (usual.objection(parse_url("http://a.example:443/")) or "")
    assert "443, 8443" in (usual.objection(parse_url("https://a.example:22/")) or "")
    assert lax.objection(parse_url("http://a.example/")) is None


def test_a_new_secret_is_one_and_no_two_are_alike() -> None:
    assert len(secret_bytes(new_secret())) == 32
    assert new_secret() != new_secret()


@pytest.mark.parametrize("size", [24, 25, 64])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    key = bytes(range(size))
    assert secret_bytes("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", "whsec_abc", "whsec_" + "*" * 43, "whsec_" + "A" * 42, "A" * 44),
        *("whsec_" + base64.b64encode(b"x" * size).decode() for size in (23, 65)),
    ],
)
def test_what_is_no_secret_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as refused:
        secret_bytes(secret)
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(refused.value)
