"""What is found, and what is left alone."""

from __future__ import annotations

import ipaddress

import pytest

from modelstack.data.privacy.accounts import cards, ibans, is_card, passes_luhn, passes_mod_97
from modelstack.data.privacy.addresses import emails, ip_addresses, is_in_scope
from modelstack.data.privacy.phones import phones
from modelstack.data.privacy.secrets import looks_random, secrets
from tools.data.privacy_cases import faults, main, read_cases, scores


def test_every_labelled_case_is_found_and_nothing_else():
    assert faults(read_cases()) == []


def test_the_check_prints_precision_and_recall_of_each_kind(capsys: pytest.CaptureFixture[str]):
    main()
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in ("email", "phone", "ip", "card", "iban", "key"))
    assert all(score.precision == score.recall == 1 for score in scores(read_cases()).values())


@pytest.mark.parametrize(
    ("address", "is_global", "is_not_local"),
    [
        ("8.8.8.8", True, True),
        ("192.0.2.19", False, True),  # documentation: not global, but pages use it as if it were
        ("198.51.100.7", False, True),
        ("192.168.1.1", False, False),
        ("127.0.0.1", False, False),
        ("100.64.0.1", False, False),
        ("224.0.0.1", True, False),  # groups: global to `ipaddress`, nobody's to us
        ("2001:db8::1", False, True),
        ("2a00:1450::1", True, True),
        ("fe80::1", False, False),
        ("abc::def", False, True),  # no unicast address that was given out
    ],
)
def test_a_scope_says_which_addresses_are_private(address: str, is_global: bool, is_not_local: bool):
    parsed = ipaddress.ip_address(address)
    assert is_in_scope(parsed, "global") is is_global
    assert is_in_scope(parsed, "not_local") is is_not_local
    assert is_in_scope(parsed, "any")


def test_addresses_of_documentation_are_found_when_the_scope_says_so():
    text = "The server is 192.0.2.19, not 127.0.0.1."
    assert list(ip_addresses(text)) == []
    assert [found.value for found in ip_addresses(text, "not_local")] == ["192.0.2.19"]
    assert [found.value for found in ip_addresses(text, "any")] == ["192.0.2.19", "127.0.0.1"]


def test_the_same_address_in_two_spellings_has_one_value():
    text = "Anna@Example.COM, anna@example.com; 2a00:1450:0:0:0:0:0:1 2a00:1450::1"
    assert {found.value for found in emails(text)} == {"anna@example.com"}
    assert {found.value for found in ip_addresses(text)} == {"2a00:1450::1"}
    assert len({found.value for found in cards("4111 1111 1111 1111 and 4111111111111111")}) == 1
    assert len({found.value for found in ibans("DE89 3704 0044 0532 0130 00 DE89370400440532013000")}) == 1


def test_checksums_are_those_of_the_standards():
    assert passes_luhn("79927398713") and not passes_luhn("79927398710")
    assert passes_mod_97("GB82WEST12345698765432") and not passes_mod_97("GB82WEST12345698765431")
    assert is_card("4111111111111111") and not is_card("9999999999999995")


def test_every_changed_digit_of_an_account_is_noticed():
    iban = "DE89370400440532013000"
    for place in range(4, len(iban)):
        changed = iban[:place] + str((int(iban[place]) + 1) % 10) + iban[place + 1 :]
        assert list(ibans(changed)) == []


def test_a_phone_number_of_each_calling_code_is_as_long_as_there():
    assert [found.value for found in phones("+1 202-555-0143 and +49 30 23125456")] == [
        "12025550143",
        "493023125456",
    ]
    assert list(phones("+1 202-555-014 and +999 1234567 and +4512")) == []


def test_random_values_are_told_from_words_and_identifiers():
    assert looks_random("8f14e45fceea167a5a36dedd4bea2543")
    assert looks_random("b7Xq29LmZt4Rk8Wv1Yc6")
    assert not looks_random("get_api_key_from_vault_2")
    assert not looks_random("win32.DuplicateTokenEx")
    assert not looks_random("aaaaaaaaaaaaaaaaaaaa1111")
    assert not looks_random("your-api-key-goes-here-123")


def test_the_password_that_manuals_write_in_a_url_is_none():
    assert list(secrets("https://user:password@host.example/")) == []
    assert [found.value for found in secrets("https://user:Xk2Lq7@host.example/")] == ["user:Xk2Lq7"]


def test_a_private_key_that_is_cut_off_is_found_as_far_as_it_goes():
    key = "-----BEGIN EC PRIVATE " + "KEY-----\nMHcCAQEEIIGlRFzR\noAoGCCqGSM49\n"
    text = f"Here: {key}\n\nThat was all, (really)."
    (found,) = secrets(text)
    assert text[found.start : found.end].startswith("-----BEGIN") and "(really)" not in found.value
